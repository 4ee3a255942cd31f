"""The stage that labels: teachers' raw logits for every row and view, shard by shard.

A shard is a pure function of its range of rows, so any worker can write it and a killed run goes on
at the first one that is missing; the first worker writes the manifest. The order of float sums
depends on the number of CPU threads, so on a CPU every worker runs the teachers on one thread:
bytes do not depend on how work was spread.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_ray.config import Recipe, TransferSetOptions
from kd_ray.config.data import WHERE
from kd_ray.datasets import Dataset
from kd_ray.errors import TransferSetError
from kd_ray.files import to_path
from kd_ray.result import TRANSFER_SET, Result, read_result
from kd_ray.runs.coding import coded
from kd_ray.runs.events import Event, ShardDone
from kd_ray.runs.fit import check_same, determining, flattened
from kd_ray.runs.inputs import Inputs, check_recipe, check_stored
from kd_ray.runs.make import Made, make
from kd_ray.runs.rows import SplitRows, rows_to_label
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.teach import load_teachers, teacher_folders
from kd_ray.training.saved_model import SavedModel, one_thread, raw_logits
from kd_ray.training.workers import Worker, summed, together
from kd_ray.transfer_set import (
    Basis,
    Columns,
    Manifest,
    Plan,
    Shard,
    SplitName,
    SplitPlan,
    TeacherIdentity,
    bytes_per_row,
    index_sha256,
    read_manifest,
    set_bytes,
    shard_state,
    shards,
    write_manifest,
    write_shard,
)
from kd_ray.transfer_set.manifest import MANIFEST

Logits = Callable[[Shard, Iterable[Tensor]], Tensor]
"""What computes the logits of a shard's rows, `(n, M, K)` float32 on the CPU, from their pixels,
`(some, C, H, W)` uint8 at a time on the worker's device."""


def transfer_set_folder(recipe: Recipe, run: Path) -> Path:
    """The transfer set that students of a recipe learn from."""
    path = recipe.transfer_set.path
    return run / "transfer_set" if path is None else to_path(path)


def set_line(result: Result) -> str:
    """The clause of a finished transfer set: how large it is."""
    metrics = result.metrics
    return f"{metrics['rows']:,} rows, {metrics['bytes_per_row']:.1f} bytes each"


def cost_lines(result: Result) -> list[str]:
    """What compact logits cost, a line for each T; none of dense ones."""
    return [
        f"rebuilt, T = {each['temperature']:g}: mean KL {each['mean']:.1e}, largest "
        f"{each['largest']:.1e} nats"
        for each in result.details.get("cost", [])
    ]


def plan_labelling(
    dataset: Dataset,
    options: TransferSetOptions,
    teachers: Sequence[SavedModel],
    accuracies: Sequence[float],
) -> Plan:
    """Everything that determines the bytes of a transfer set.

    Raises:
        TransferSetError: a teacher was trained on other data, classes or normalization.
    """
    for teacher in teachers:
        trained_on = teacher.meta.parents.get("dataset")
        if trained_on != dataset.fingerprint:
            raise TransferSetError(
                f"{teacher.path}: the teacher must have been trained on the data it labels, but "
                f"its dataset has fingerprint {trained_on} and {dataset.name} has "
                f"{dataset.fingerprint}; use the same [data] table and files, or train it again"
            )
    identities = [
        TeacherIdentity(
            sha256=teacher.sha256,
            model=teacher.meta.model,
            accuracy=accuracy,
            class_names=tuple(teacher.meta.class_names),
        )
        for teacher, accuracy in zip(teachers, accuracies, strict=True)
    ]
    pixels = teachers[0].meta.input
    return plan_rows(
        dataset, options, rows_to_label(dataset, options), identities, pixels.mean, pixels.std
    )


def plan_rows(
    dataset: Dataset,
    options: TransferSetOptions,
    rows: Mapping[SplitName, SplitRows],
    teachers: Sequence[TeacherIdentity],
    mean: Sequence[float],
    std: Sequence[float],
) -> Plan:
    """The plan of a transfer set with these rows; `mean` and `std` are of students' pixels.

    Raises:
        ConfigError: what `check_stored` raises.
    """
    check_stored(options, dataset)
    stored = {"dtype", "views", "seed", "unlabelled", "include_images", "shard_rows", "compression"}
    return Plan(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        mean=tuple(mean),
        std=tuple(std),
        splits={
            name: SplitPlan(
                dataset_rows=chosen.split.rows,
                fingerprint=chosen.split.fingerprint,
                rows=len(chosen.index),
                index_sha256=index_sha256(chosen.index.numpy()),
            )
            for name, chosen in rows.items()
        },
        teachers=tuple(teachers),
        augment=options.augment.model_dump(mode="json"),
        **options.model_dump(include=stored),
    )


def write_shards(
    folder: Path,
    plan: Plan,
    rows: dict[SplitName, SplitRows],
    logits: Logits,
    worker: Worker,
    basis: Basis | None = None,
) -> Iterator[ShardDone]:
    """Writes this worker's shards that are not there yet; its rank says which are its own.

    Raises:
        TransferSetError: a logit is not finite or does not fit the dtype, or the folder holds
            shards of another plan.
        StorageError: a shard cannot be written.
    """
    mine = shards(plan)[worker.rank :: worker.world]
    all_rows, done_rows = sum(shard.rows for shard in mine), 0
    with one_thread(worker.device):
        for shard in mine:
            existed = shard_state(folder, plan, shard) == "whole"
            if not existed:
                columns = _columns(plan, shard, rows[shard.split], logits, worker.device)
                write_shard(folder, plan, shard, columns, basis)
            done_rows += shard.rows
            yield ShardDone(shard.name, shard.rows, done_rows, all_rows, existed, worker.rank)


def _columns(
    plan: Plan, shard: Shard, rows: SplitRows, logits: Logits, device: torch.device
) -> Columns:
    """A shard in memory: of its pixels only a part, unless they are stored."""
    numbers, kept = torch.arange(shard.start, shard.stop), list[Tensor]()

    def images() -> Iterator[Tensor]:
        for some in rows.images(numbers, device):
            if plan.include_images:
                kept.append(some)
            yield some

    pieces = images()
    found = logits(shard, pieces)
    for _ in pieces if plan.include_images else ():  # that nobody has asked for
        pass
    index, view, labels = rows.columns(numbers)
    return Columns(
        index=index.numpy(),
        view=view.numpy().astype(np.int32),
        label=labels.numpy(),
        logits=found.numpy(),
        image=torch.cat(kept).cpu().numpy() if kept else None,
    )


def write_set(
    folder: Path,
    plan: Plan,
    rows: dict[SplitName, SplitRows],
    logits: Logits,
    worker: Worker,
    basis: Basis | None = None,
) -> Generator[ShardDone, None, tuple[Manifest | None, int]]:
    """Writes a transfer set by all workers together; see `write_shards`.

    Returns:
        The manifest, on the first worker; and the rows that all of them have written just now.
    """
    written = 0
    with together(worker.device):
        for event in write_shards(folder, plan, rows, logits, worker, basis):
            written += 0 if event.existed else event.rows
            yield event
    with together(worker.device):
        total = summed(torch.tensor([float(written)], device=worker.device))
        manifest = write_manifest(folder, plan) if worker.is_first else None
    return manifest, int(total.item())


def set_fields(manifest: Manifest | None, **metrics: int) -> dict[str, Any]:
    """What the record of a transfer set says of it; `metrics` are further ones."""
    if manifest is None:  # on other workers, which write no record
        return {}
    rows, per_row = sum(f.rows for f in manifest.files), round(bytes_per_row(manifest), 2)
    size = {"rows": rows, **metrics, "bytes": set_bytes(manifest), "bytes_per_row": per_row}
    cost = [each.model_dump() for each in manifest.cost]
    return {"metrics": size, "sha256": manifest.sha256, **({"cost": cost} if cost else {})}


def _tasks(request: Request) -> list[Task]:
    return [request.task(LABEL)] if request.labels_here else []


def labelled_parent(task: Task) -> dict[str, str]:
    """The sha256 of the transfer set that a task reads, if that is there."""
    folder = transfer_set_folder(task.recipe, task.run_folder)
    there = (folder / MANIFEST).is_file()
    return {"transfer_set": read_manifest(folder).sha256} if there else {}


def set_identity(task: Task) -> dict[str, Any]:
    """The part of the recipe that determines a transfer set's rows and how they are stored."""
    return {
        "data": determining(task.recipe.data, *WHERE),
        "transfer_set": task.recipe.transfer_set.model_dump(mode="json", exclude={"path"}),
    }


def _identity(task: Task) -> dict[str, Any]:
    assert task.recipe.teacher is not None
    return {**set_identity(task), "teacher.members": task.recipe.teacher.members}


def _parents(task: Task) -> dict[str, str]:
    results = [read_result(folder) for folder in teacher_folders(task.recipe, task.run_folder)]
    return {f"teacher-{n:02d}": result.fingerprint for n, result in enumerate(results) if result}


def check_plan(folder: Path, plan: Plan) -> None:
    """Refuses a finished set that another recipe made: a `CheckpointError`."""
    if (folder / MANIFEST).is_file():
        there = read_manifest(folder).plan
        plans = (one.model_dump(mode="json", exclude={"code"}) for one in (there, plan))
        check_same(folder, *map(flattened, plans))


@dataclass(frozen=True)
class _Labelling:
    """What is labelled by whom, and the plan of the set."""

    dataset: Dataset
    teachers: Sequence[SavedModel]
    plan: Plan


def _open(task: Task, worker: Worker, inputs: Inputs) -> tuple[_Labelling, dict[str, str]]:
    dataset = inputs.dataset(task.data)
    check_recipe(task.recipe, dataset)
    members = load_teachers(task.recipe, task.run_folder, worker.device)
    teachers = [saved for saved, _ in members]
    accuracies = [float(result.metrics["accuracy"]) for _, result in members]
    plan = plan_labelling(dataset, task.recipe.transfer_set, teachers, accuracies)
    check_plan(task.folder, plan)
    hashes = {f"teacher-{number:02d}": saved.sha256 for number, saved in enumerate(teachers)}
    return _Labelling(dataset, teachers, plan), {"dataset": dataset.fingerprint, **hashes}


def _make(task: Task, worker: Worker, source: _Labelling) -> Generator[Event, None, Made]:
    def logits(shard: Shard, images: Iterable[Tensor]) -> Tensor:
        return raw_logits(source.teachers, images, worker.device)

    plan, rows = source.plan, rows_to_label(source.dataset, task.recipe.transfer_set)
    plan, basis = coded(task.folder, plan, source.teachers, rows["train"], worker)
    manifest, written = yield from write_set(task.folder, plan, rows, logits, worker, basis)
    return set_fields(manifest, train_rows=plan.rows_of("train") // plan.views), written


LABEL = Stage(
    name="label",
    kind=TRANSFER_SET,
    commands=("label",),
    tasks=_tasks,
    title=lambda task: "transfer set",
    folder=lambda task: task.run_folder / "transfer_set",
    identity=_identity,
    parents=_parents,
    perform=partial(make, _open, _make),
    summary=set_line,
    details=cost_lines,
)
