"""Figures of a checkpoint on the data that its recipe names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kd_ray.catalog import pick
from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import CheckpointError
from kd_ray.export.formats import FORMATS
from kd_ray.files import local_copy, reason_of, sha256_of, to_path
from kd_ray.models.dustbin import special_labels
from kd_ray.result import EXPORT, Result, read_result
from kd_ray.runs.export import check_fingerprint
from kd_ray.runs.fit import checkpoint_at
from kd_ray.training.checkpoint import Meta
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import feed_of
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.saved_model import load_model
from kd_ray.training.workers import Worker


def this_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate_checkpoint(path: str | Path, root: str | None = None) -> dict[str, float]:
    """Figures of a checkpoint or an export on its dataset's test split; see `metrics.summarize`.

    Args:
        path: of a checkpoint, a finished training or an export, or its URL in a store.
        root: folder of the dataset's files, if not where the recipe or KD_RAY_DATA says.

    Raises:
        CheckpointError: no checkpoint, or the data is not what it was trained on.
    """
    device = this_device()
    if (export := export_at(to_path(path))) is not None:
        return _evaluate_export(*export, root)
    saved = load_model(checkpoint_at(to_path(path)), device)
    dataset = dataset_of(saved.path, saved.meta, root)
    feed = feed_of(dataset.test, saved.meta.input.mean, saved.meta.input.std).to(device)
    if saved.meta.special is not None:
        labels = special_labels(feed.labels, saved.meta.special)
        feed = replace(feed, labels=labels, recordings=None)  # its outputs are no states of words
    return evaluate(saved.model, feed, Worker(0, 1, device, torch.get_num_threads()))


def export_at(path: Path) -> tuple[Path, Result] | None:
    """The folder of an export and its record, by the folder or a file in it; None of another path.

    Raises:
        CheckpointError: a file of it was altered.
    """
    folder = path.parent if path.is_file() else path
    result = read_result(folder)
    if result is None or result.kind != EXPORT:
        return None
    for name, about in result.details["files"].items():
        with local_copy(folder / name) as file:
            found = sha256_of(file) if file.is_file() else "missing"
        if found != about["sha256"]:
            raise CheckpointError(
                f"{folder / name}: must be as it was written, with sha256 "
                f"{about['sha256'][:12]}, but is {found[:12]}; remove the folder and export again"
            )
    return folder, result


def _evaluate_export(folder: Path, result: Result, root: str | None) -> dict[str, float]:
    format = pick("format", FORMATS, result.details["format"])
    if format.runs_code:
        raise CheckpointError(
            f"{folder / format.files[0]}: may have code that runs when torch loads it, which a "
            "file cannot ask for by itself, and was compared when it was made; evaluate the "
            f"student of which it is, {result.title.split(' as ')[0]}"
        )
    options = recipe_of(folder, result.recipe).data
    dataset = open_dataset(options.model_copy(update={"root": root or options.root}))
    check_fingerprint(folder, result.parents.get("dataset"), dataset)
    logits = torch.from_numpy(format.runner(folder)(dataset.test.in_memory.numpy()))
    return summarize(tally(logits, dataset.test.labels))


def recipe_of(path: Path, table: Mapping[str, Any]) -> Recipe:
    """The recipe that an artefact records.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        reason = reason_of(error)
        raise CheckpointError(
            f"{path}: must record its recipe, but {reason}; make it anew"
        ) from error


def dataset_of(path: Path, meta: Meta, root: str | None) -> Dataset:
    """The dataset that the model of a checkpoint was trained on; arguments as above.

    Raises:
        CheckpointError: the data here is not what it was trained on.
    """
    options = recipe_of(path, meta.recipe).data
    dataset = open_dataset(options.model_copy(update={"root": root or options.root}))
    check_fingerprint(path, meta.parents.get("dataset"), dataset)
    return dataset
