"""The stage that labels: teachers' raw logits for every row and view, shard by shard.

A shard is a pure function of its range of rows, so any worker can write it and a killed run goes on
at the first one that is missing; the first worker writes the manifest. The order of float sums
depends on the number of CPU threads, so on a CPU every worker runs the teachers on one thread:
bytes do not depend on how work was spread.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_ray.config import Recipe, TransferSetOptions
from kd_ray.datasets import Dataset
from kd_ray.errors import TransferSetError
from kd_ray.files import remove_drafts, to_path
from kd_ray.result import TRANSFER_SET, Result, read_result, write_result
from kd_ray.runs.events import Event, Finished, ShardDone, Started
from kd_ray.runs.fit import check_same, determining, flattened, identity
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.rows import Rendered, SplitRows, rows_to_label
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.teach import load_teachers, teacher_folders
from kd_ray.training.predict import one_thread, raw_logits
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.workers import Worker, from_first, summed, together
from kd_ray.transfer_set import (
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
    shard_state,
    shards,
    write_manifest,
    write_shard,
)
from kd_ray.transfer_set.manifest import MANIFEST
from kd_ray.versions import versions


def transfer_set_folder(recipe: Recipe, run: Path) -> Path:
    """The transfer set that students of a recipe learn from."""
    path = recipe.transfer_set.path
    return run / "transfer_set" if path is None else to_path(path)


def set_line(result: Result) -> str:
    """The clause of a finished transfer set: how large it is."""
    metrics = result.metrics
    return f"{metrics['rows']:,} rows, {metrics['bytes_per_row']:.1f} bytes each"


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
    stored = {"dtype", "views", "seed", "unlabelled", "include_images", "shard_rows", "compression"}
    return Plan(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        mean=teachers[0].meta.input.mean,
        std=teachers[0].meta.input.std,
        splits={
            name: SplitPlan(
                dataset_rows=rows.split.rows,
                fingerprint=rows.split.fingerprint,
                rows=len(rows.index),
                index_sha256=index_sha256(rows.index.numpy()),
            )
            for name, rows in rows_to_label(dataset, options).items()
        },
        teachers=tuple(
            TeacherIdentity(
                sha256=teacher.sha256,
                model=teacher.meta.model,
                accuracy=accuracy,
                class_names=tuple(teacher.meta.class_names),
            )
            for teacher, accuracy in zip(teachers, accuracies, strict=True)
        ),
        augment=options.augment.model_dump(mode="json"),
        **options.model_dump(include=stored),
    )


def write_shards(
    folder: Path,
    plan: Plan,
    rows: dict[SplitName, SplitRows],
    logits: Callable[[Shard, Rendered], Tensor],
    worker: Worker,
) -> Iterator[ShardDone]:
    """Writes this worker's shards that are not there yet; the manifest is the caller's.

    Args:
        folder: of the transfer set.
        plan: everything that determines its bytes.
        rows: of each split.
        logits: those of a shard's rows, `(n, M, K)` float32 on the CPU.
        worker: which shards are its own, its rank says.

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
                part = rows[shard.split].rendered(torch.arange(shard.start, shard.stop))
                columns = Columns(
                    index=part.index.numpy(),
                    view=part.view.numpy().astype(np.int32),
                    label=part.labels.numpy(),
                    logits=logits(shard, part).numpy(),
                    image=part.images.numpy() if plan.include_images else None,
                )
                write_shard(folder, plan, shard, columns)
            done_rows += shard.rows
            yield ShardDone(shard.name, shard.rows, done_rows, all_rows, existed, worker.rank)


def _tasks(request: Request) -> list[Task]:
    return [request.task(LABEL)] if request.labels_here else []


def _identity(task: Task) -> dict[str, Any]:
    assert task.recipe.teacher is not None
    return {
        "data": determining(task.recipe.data, "root"),
        "transfer_set": task.recipe.transfer_set.model_dump(mode="json", exclude={"path"}),
        "teacher.members": task.recipe.teacher.members,
    }


def _parents(task: Task) -> dict[str, str]:
    results = [read_result(folder) for folder in teacher_folders(task.recipe, task.run_folder)]
    return {f"teacher-{n:02d}": result.fingerprint for n, result in enumerate(results) if result}


def _perform(task: Task, worker: Worker, inputs: Inputs) -> Generator[Event]:
    options = task.recipe.transfer_set
    with together(worker.device):
        dataset = inputs.dataset(task.data)
        teachers = load_teachers(task.recipe, task.run_folder, worker.device)
        models = [saved for saved, _ in teachers]
        accuracies = [float(result.metrics["accuracy"]) for _, result in teachers]
        plan = plan_labelling(dataset, options, models, accuracies)
        result = read_result(task.folder) if _is_labelled(task, plan) else None
    if from_first(int(result is not None), worker.device):
        assert result is not None
        yield Finished(result, existed=True)
        return
    yield Started(0, 0)
    started = time.perf_counter()
    written = 0
    with together(worker.device):  # no worker may write before old drafts are gone
        if worker.is_first:
            remove_drafts(task.folder)
    with together(worker.device):
        for event in write_shards(
            task.folder,
            plan,
            rows_to_label(dataset, options),
            lambda _, part: raw_logits(models, part.images, worker.device),
            worker,
        ):
            written += 0 if event.existed else event.rows
            yield event
    with together(worker.device):
        written = int(summed(torch.tensor([float(written)], device=worker.device)).item())
        if worker.is_first:
            manifest = write_manifest(task.folder, plan)
            seconds = time.perf_counter() - started
            write_result(task.folder, _result(task, manifest, written, seconds))
    with together(worker.device):
        result = read_result(task.folder)
        assert result is not None
        yield Finished(result, existed=False)


def _is_labelled(task: Task, plan: Plan) -> bool:
    """Whether an earlier attempt has written the manifest; it must be of the same plan."""
    if not (task.folder / MANIFEST).is_file():
        return False
    there = read_manifest(task.folder).plan
    check_same(
        task.folder,
        flattened(there.model_dump(mode="json")),
        flattened(plan.model_dump(mode="json")),
    )
    return True


def set_result(task: Task, manifest: Manifest, rate: float, seconds: float, **more: Any) -> Result:
    """The record of a transfer set.

    Args:
        task: that made it.
        manifest: what it is.
        rate: images/s.
        seconds: how long it took.
        more: further keys, its parents and further metrics among them.
    """
    metrics = {
        "rows": sum(entry.rows for entry in manifest.files),
        **more.pop("metrics", {}),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "bytes_per_row": round(bytes_per_row(manifest), 2),
    }
    return Result(
        stage=task.stage.name,
        kind=task.stage.kind,
        name=task.recipe.name,
        status="finished",
        title=task.title,
        metrics=metrics,
        images_per_s=round(rate, 1),
        seconds=round(seconds, 2),
        resumed_from=None,
        sha256=manifest.sha256,
        identity=identity(task),
        recipe=task.recipe_table(),
        versions=versions(),
        **more,
    )


def _result(task: Task, manifest: Manifest, written: int, seconds: float) -> Result:
    plan = manifest.plan
    return set_result(
        task,
        manifest,
        written / seconds,
        seconds,
        metrics={"train_rows": plan.rows_of("train") // plan.views},
        parents={
            "dataset": plan.dataset_fingerprint,
            **{f"teacher-{n:02d}": teacher.sha256 for n, teacher in enumerate(plan.teachers)},
        },
    )


LABEL = Stage(
    name="label",
    kind=TRANSFER_SET,
    commands=("label",),
    tasks=_tasks,
    title=lambda task: "transfer set",
    folder=lambda task: task.run_folder / "transfer_set",
    identity=_identity,
    parents=_parents,
    perform=_perform,
    summary=set_line,
)
