"""Tiny recipes, datasets, feeds and teachers: real objects that train in milliseconds."""

from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor
from typer.testing import CliRunner

from kd_ray.batch import Batch
from kd_ray.cli import app
from kd_ray.config import QuantizerOptions, Recipe
from kd_ray.config.read import apply_override, parse_recipe
from kd_ray.datasets import Dataset, Split
from kd_ray.models import build_model
from kd_ray.pipeline import Run, catalogue_problems
from kd_ray.result import Result, read_result
from kd_ray.runs import Event, Finished, Task, perform_all, result_model
from kd_ray.training.batch_loss import ObjectiveFunction
from kd_ray.training.checkpoint import WEIGHTS, Meta, ModelInput, save
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import Loss, distillation_loss
from kd_ray.training.progress import Epoch, Training
from kd_ray.training.saved_model import SavedModel, load_model
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import read_manifest

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"), threads=1)


def tiny_table(*overrides: str) -> dict[str, Any]:
    """A recipe as a plain table: an eighth of the digits, small networks, two epochs."""
    table: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "digits", "fraction": 0.125},
        "teacher": {
            "model": {"name": "mlp", "hidden": [16], "dropout": [0.1, 0.2]},
            "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
        },
        "transfer_set": {"shard_rows": 100},
        "student": {"model": {"name": "mlp", "hidden": [8], "dropout": [0.1, 0.1]}},
        "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
        "resources": {"cpus_per_worker": 1, "fuse": 1},  # as the bits of runs are compared
    }
    for override in overrides:
        apply_override(table, override)
    return table


def tiny_recipe(*overrides: str) -> Recipe:
    """`tiny_table`, read and checked."""
    return parse_recipe(tiny_table(*overrides), "tiny", [catalogue_problems])


def tiny_file(folder: Path, *overrides: str) -> Path:
    """`tiny_table` as a TOML file."""
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny_table(*overrides)), encoding="utf-8")
    return path


def refused(*arguments: object, at_once: bool = True) -> str:
    """The one line that a command answers with, before it prints anything if `at_once`.

    But for signs of life, which a machine that is busy with others may make it print.
    """
    answer = CliRunner().invoke(app, list(map(str, arguments)))
    assert answer.exit_code == 2, (answer.output, answer.exception)
    printed = [line for line in answer.stdout.splitlines() if "still at work" not in line]
    assert not (at_once and printed), printed
    lines = answer.stderr.splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("kd-ray: ")
    return lines[0]


def quantizer_options(
    method: str = "dorefa", weights: int = 2, inputs: int = 1, **more: Any
) -> Any:
    """The options of a quantizer of two by one bits, or others."""
    return QuantizerOptions(method=method, weight_bits=weights, activation_bits=inputs, **more)


def tasks(recipe: Recipe, folder: Path) -> list[Task]:
    """Every task of a recipe, in order."""
    return Run(recipe, folder, local=True).tasks()


def perform(todo: list[Task], worker: Worker = ALONE) -> list[tuple[Task, Event]]:
    """Performs tasks to their end."""
    return list(perform_all(todo, worker))


def perform_in_pieces(task: Task) -> Result:
    """Performs a training, stopping after every epoch and going on in fresh objects."""
    while True:
        torch.manual_seed(torch.seed())  # a new process would not have the old random state
        generator = perform_all([task], ALONE)
        for _, event in generator:
            if isinstance(event, Finished):
                return event.result
            if isinstance(event, Epoch):
                break
        generator.close()


def result_at(folder: Path) -> Result:
    """The record in the folder of a finished artefact."""
    result = read_result(folder)
    assert result is not None, folder
    return result


def fingerprints(run: Path) -> dict[str, Any]:
    """What two runs must agree on, bit for bit: the transfer set's files, and weights by title."""
    found: dict[str, Any] = {"transfer set": read_manifest(run / "transfer_set").files}
    for file in sorted(run.rglob("result.json")):
        result = result_at(file.parent)
        if result.stage != "label":
            found[result.title] = result.weights_sha256
    return found


def weights_sha256(folder: Path) -> str:
    """Of the result of a finished training."""
    return load_model(result_model(folder), torch.device("cpu")).sha256


def without_time(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the figures that differ from run to run."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "images_per_s")}
        for record in history
    ]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def tiny_split(name: str, rows: int, classes: int = 3, seed: int = 0) -> Split:
    """Images `(N, 1, 4, 4)` whose brightest quarter, with some noise, tells the class."""
    labels = torch.arange(rows) % classes
    images = torch.randint(0, 128, (rows, 1, 4, 4), generator=generator(seed))
    images[torch.arange(rows), 0, labels] += 100
    return Split(name, images.to(torch.uint8), labels)


def tiny_dataset(train: int = 24, validation: int = 6, test: int = 9, classes: int = 3) -> Dataset:
    """A dataset in memory."""
    return Dataset(
        "tiny",
        tuple(f"class-{number}" for number in range(classes)),
        train=tiny_split("train", train, classes, seed=1),
        validation=tiny_split("validation", validation, classes, seed=2),
        test=tiny_split("test", test, classes, seed=3),
    )


def tiny_feed(rows: int = 24, members: int = 2, views: int = 1, **changes: Any) -> TensorFeed:
    """Rows of `tiny_split` with random teacher logits; `changes` are fields of the feed."""
    split = tiny_split("train", rows)
    fields: dict[str, Any] = {
        "pixels": split.images,
        "labels": split.labels,
        "index": torch.arange(rows),
        "mean": torch.tensor([0.4]),
        "std": torch.tensor([0.2]),
        "logits": torch.randn(rows, views, members, 3, generator=generator(7)),
        "views": views,
    }
    return TensorFeed(**{**fields, **changes})


def tiny_model(seed: int = 0, dropout: float = 0.0) -> torch.nn.Module:
    """From `(N, 1, 4, 4)` to `(N, 3)`."""
    options = {"hidden": [5], "dropout": [dropout, dropout]}
    return build_model("mlp", options, shape=(1, 4, 4), classes=3, seed=seed)


def soft_objective(temperature: float = 2.0, hard_weight: float = 0.5) -> ObjectiveFunction:
    """Both terms of the student's loss."""

    def objective(logits: Tensor, batch: Batch, progress: float) -> Loss:
        return distillation_loss(
            logits,
            batch.labels,
            batch.teacher_logits,
            temperature=temperature,
            soft_weight=temperature**2,
            hard_weight=hard_weight,
            global_rows=batch.global_rows,
            global_labelled=batch.global_labelled,
        )

    return objective


def tiny_meta(dataset: Dataset, model: dict[str, Any], **changes: Any) -> Meta:
    """The description of a teacher of a dataset."""
    fields: dict[str, Any] = {
        "kind": "teacher",
        "epoch": 1,
        "model": model,
        "input": ModelInput(shape=dataset.image_shape, mean=dataset.mean, std=dataset.std),
        "class_names": list(dataset.class_names),
        "recipe": {},
        "identity": {},
        "parents": {"dataset": dataset.fingerprint},
    }
    return Meta(**{**fields, **changes})


def tiny_teacher(folder: Path, dataset: Dataset, seed: int = 0, scale: float = 1.0) -> SavedModel:
    """An untrained teacher's checkpoint, loaded; its weights are multiplied by `scale`."""
    table = {"name": "mlp", "hidden": [7]}
    model = build_model(
        "mlp",
        {"hidden": [7]},
        shape=dataset.image_shape,
        classes=len(dataset.class_names),
        seed=seed,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(model, optimizer)
    training.note(Epoch(1, {}, seconds=0.0, images_per_s=0.0))
    path = save(folder / f"teacher-{seed}", tiny_meta(dataset, table), training)
    saved = load_model(path, torch.device("cpu"))
    assert saved.sha256 == saved.meta.files[WEIGHTS]
    return saved
