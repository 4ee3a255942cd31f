"""Figures of a checkpoint on the data that its recipe names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import CheckpointError
from kd_ray.files import reason_of, to_path
from kd_ray.models.dustbin import special_labels
from kd_ray.result import RESULT
from kd_ray.runs import result_model
from kd_ray.training.checkpoint import META, Meta
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import feed_of
from kd_ray.training.saved_model import load_model
from kd_ray.training.workers import Worker


def this_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a path means: an epoch's folder, or the result of a finished training.

    Raises:
        CheckpointError: neither.
    """
    if (path / META).is_file():
        return path
    if (path / RESULT).is_file():
        return result_model(path)
    raise CheckpointError(
        f"{path}: must be a checkpoint (a folder with {META}) or a finished training (with "
        f"{RESULT}), but has neither; name one such as runs/mnist/student/distilled/seed-0"
    )


def evaluate_checkpoint(path: str | Path, root: str | None = None) -> dict[str, float]:
    """Figures of a checkpoint on its dataset's test split; see `metrics.summarize`.

    Args:
        path: of a checkpoint or a finished training, or its URL in a store.
        root: folder of the dataset's files, if not where the recipe or KD_RAY_DATA says.

    Raises:
        CheckpointError: no checkpoint, or the data is not what it was trained on.
    """
    device = this_device()
    saved = load_model(checkpoint_at(to_path(path)), device)
    dataset = dataset_of(saved.path, saved.meta, root)
    feed = feed_of(dataset.test, saved.meta.input.mean, saved.meta.input.std).to(device)
    if saved.meta.special is not None:
        labels = special_labels(feed.labels, saved.meta.special)
        feed = replace(feed, labels=labels, recordings=None)  # its outputs are no states of words
    return evaluate(saved.model, feed, Worker(0, 1, device, torch.get_num_threads()))


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
    wanted = meta.parents.get("dataset")
    if wanted != dataset.fingerprint:
        raise CheckpointError(
            f"{path}: its dataset has fingerprint {wanted}, but {dataset.name} here has "
            f"{dataset.fingerprint}; give the folder of the same files with --data-root"
        )
    return dataset
