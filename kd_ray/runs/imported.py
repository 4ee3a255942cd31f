"""The stage that makes a transfer set of logits from elsewhere, in the place of labelling.

The recipe has no teacher; it says which rows and views the logits are of and how they are stored,
as it does where a teacher labels. Everything is read and checked before anything is written.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.config import TransferSetOptions
from kd_ray.datasets import Dataset
from kd_ray.errors import ConfigError, TransferSetError
from kd_ray.files import locked, remove_drafts, to_path
from kd_ray.result import TRANSFER_SET, Result
from kd_ray.runs.events import Event
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import (
    check_plan,
    plan_rows,
    set_fields,
    set_identity,
    set_line,
    write_set,
    write_shards,
)
from kd_ray.runs.make import Made, make
from kd_ray.runs.rows import SplitRows, rows_to_label, rows_with_labels
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import (
    SPLITS,
    GivenLogits,
    Manifest,
    Plan,
    Shard,
    SplitName,
    TeacherIdentity,
    Wanted,
    arrange,
    logits_in_arrays,
    logits_sha256,
    open_logits,
    write_manifest,
)

LOGITS = "logits"
"""Under which a task has the path of the file, and its record the sha256."""


@dataclass(frozen=True)
class Imported:
    """Logits that fit a dataset, in memory, and the set that they make.

    Attributes:
        plan: of the set.
        rows: of each split.
        stored: split -> `(N * V, M, K)` of the stored type, views counting fastest.
        figures: of each teacher, see `_figures`.
    """

    plan: Plan
    rows: dict[SplitName, SplitRows]
    stored: Mapping[SplitName, Tensor]
    figures: Sequence[dict[str, float]]

    def logits(self, shard: Shard, images: Iterable[Tensor]) -> Tensor:
        """Those of a shard's rows, `(n, M, K)`."""
        return self.stored[shard.split][shard.start : shard.stop]


def fitted(given: GivenLogits, dataset: Dataset, options: TransferSetOptions) -> Imported:
    """Reads all logits, and checks them against the dataset and `[transfer_set]`.

    The set has the training rows that `fraction` or `classes` choose, else those with logits. The
    other splits have logits of all rows or of none.

    Raises:
        TransferSetError: they do not fit; see `arrange`.
    """
    if options.dtype.startswith("compact"):
        raise ConfigError(
            f"transfer_set.dtype: {options.dtype!r} is for logits of teachers that an audit can "
            'run again, but these are imported; set it to "float16" or "float32"'
        )
    chosen = {name: rows.index for name, rows in rows_to_label(dataset, options).items()}
    stored: dict[SplitName, Tensor] = {}
    index: dict[SplitName, Tensor] = {name: torch.empty(0, dtype=torch.int64) for name in SPLITS}
    for name in SPLITS:
        if name not in given.arrays:
            continue
        free = name == "train" and options.fraction == 1 and options.classes is None
        wanted = Wanted(
            split=name,
            labels=getattr(dataset, name).labels.numpy(),
            classes=len(dataset.class_names),
            views=options.views if name == "train" else 1,
            dtype=options.dtype,
            chosen=None if free else chosen[name].numpy(),
        )
        found = arrange(given, wanted)
        stored[name], index[name] = torch.from_numpy(found.logits), torch.from_numpy(found.index)
    counts = {name: logits.shape[1] for name, logits in stored.items()}
    if len(set(counts.values())) > 1:
        got = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise TransferSetError(
            f"{given.where}: every split must have logits of the same teachers, but there are "
            f"{got}; give those of all, or leave the split out"
        )
    rows = rows_with_labels(dataset, options, index)
    figures = _figures(dataset, rows, stored)
    teachers = [
        TeacherIdentity(
            sha256=given.sha256,
            model=given.model,
            accuracy=of_one.get("accuracy"),
            class_names=dataset.class_names,
        )
        for of_one in figures
    ]
    plan = plan_rows(dataset, options, rows, teachers, dataset.mean, dataset.std)
    return Imported(plan, rows, stored, figures)


def _figures(
    dataset: Dataset, rows: Mapping[SplitName, SplitRows], stored: Mapping[SplitName, Tensor]
) -> list[dict[str, float]]:
    """Of each teacher, as its logits have it: `train_accuracy`, and figures of the test split.

    The former is of plain images, and shows at a glance whether rows were mixed up.
    """
    train, test = dataset.train.labels[rows["train"].index], dataset.test.labels
    plain, found = stored["train"][:: rows["train"].views].float(), []
    for member in range(plain.shape[1]):
        figures = {}
        if (train != UNLABELLED).any():
            figures["train_accuracy"] = summarize(tally(plain[:, member], train))["accuracy"]
        if "test" in stored:
            figures |= summarize(tally(stored["test"][:, member].float(), test))
        found.append(figures)
    return found


def write_transfer_set(
    folder: str | Path,
    dataset: Dataset,
    logits: Mapping[str, Any],
    options: TransferSetOptions | None = None,
) -> Manifest:
    """Writes a transfer set of logits that came from elsewhere; see the guide of `transfer_set`.

    Args:
        folder: of the set, or its URL in a store; `transfer_set.path` then names it.
        dataset: whose images they are of, see `open_dataset`.
        logits: numpy arrays or torch tensors: `{"train": ...}` in the order of the dataset's rows,
            `(N, K)`, `(N, M, K)` or `(N, V, M, K)`; also "validation" and "test", and
            "train.index" and the like for other rows.
        options: views and how they are stored, such as a recipe's `transfer_set`.

    Raises:
        TransferSetError: they do not fit the dataset, or the folder has another set.
        StorageError: it cannot be written.
    """
    imported = fitted(logits_in_arrays(logits), dataset, options or TransferSetOptions())
    path = to_path(folder)
    with locked(path):
        remove_drafts(path)
        check_plan(path, imported.plan)
        alone = Worker(0, 1, torch.device("cpu"), torch.get_num_threads())
        for _ in write_shards(path, imported.plan, imported.rows, imported.logits, alone):
            pass
        return write_manifest(path, imported.plan)


def _tasks(request: Request) -> list[Task]:
    if not request.imports_here:
        return []
    given = {} if request.logits is None else {LOGITS: request.logits}
    return [request.task(IMPORT, parents=given)]


def _needs(task: Task) -> None:
    if LOGITS not in task.parents:
        raise ConfigError(
            f"{task.folder}: must have the transfer set of a recipe without [teacher], but has "
            "none; make it with kd-ray import RECIPE --logits FILE, or add [teacher]"
        )


def _parents(task: Task) -> dict[str, str]:
    return {name: logits_sha256(to_path(file)) for name, file in task.parents.items()}


def _open(task: Task, worker: Worker, inputs: Inputs) -> tuple[Imported, dict[str, str]]:
    _needs(task)
    dataset = inputs.dataset(task.data)
    with open_logits(to_path(task.parents[LOGITS])) as given:
        imported = fitted(given, dataset, task.recipe.transfer_set)
    check_plan(task.folder, imported.plan)
    return imported, {"dataset": dataset.fingerprint, LOGITS: given.sha256}


def _make(task: Task, worker: Worker, source: Imported) -> Generator[Event, None, Made]:
    plan, rows = source.plan, source.rows
    manifest, written = yield from write_set(task.folder, plan, rows, source.logits, worker)
    fields = set_fields(manifest, train_rows=len(rows["train"].index))
    about = {"origin": plan.teachers[0].origin, "teachers": list(source.figures)}
    return {**fields, "imported": about}, written


def import_lines(result: Result) -> Sequence[str]:
    """A line for each teacher: where its logits came from, and how good they are."""
    about, lines = result.details.get("imported", {}), []
    for number, figures in enumerate(about.get("teachers", [])):
        known = [
            f"{what} accuracy {figures[name]:.4f}"
            if name in figures
            else f"{what} accuracy unknown"
            for name, what in (("train_accuracy", "training"), ("accuracy", "test"))
        ]
        lines.append(f"teacher {number}: {', '.join([about['origin'], *known])}")
    return lines


IMPORT = Stage(
    name="import",
    kind=TRANSFER_SET,
    commands=("label", "import"),
    tasks=_tasks,
    title=lambda task: "transfer set",
    folder=lambda task: task.run_folder / "transfer_set",
    identity=set_identity,
    parents=_parents,
    needs=_needs,
    perform=partial(make, _open, _make),
    summary=set_line,
    details=import_lines,
)
