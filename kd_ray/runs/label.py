"""The stage that labels: every worker writes its shards, the first one writes the manifest."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from kd_ray.config import Recipe
from kd_ray.files import remove_drafts, write_json
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import RESULT, read_result
from kd_ray.runs.identity import flattened, identity
from kd_ray.runs.inputs import Inputs, load_teachers
from kd_ray.runs.labelling import label, plan_labelling
from kd_ray.runs.task import Task
from kd_ray.training.checkpoint import check_identity, versions
from kd_ray.training.workers import Worker, from_first, summed, together
from kd_ray.transfer_set import Manifest, Plan, bytes_per_row, read_manifest, write_manifest
from kd_ray.transfer_set.manifest import MANIFEST


def label_stage(task: Task, worker: Worker, inputs: Inputs) -> Iterator[Event]:
    """Writes the transfer set of a "label" task, from wherever it is."""
    recipe = task.read_recipe()
    with together(worker.device):
        dataset = inputs.dataset(recipe)
        teachers = load_teachers(task, recipe, worker.device)
        models = [saved for saved, _ in teachers]
        accuracies = [result["metrics"]["accuracy"] for _, result in teachers]
        plan = plan_labelling(dataset, recipe.transfer_set, models, accuracies)
        manifest = _finished_manifest(task, plan)
        result = read_result(task.folder) if manifest else None
    if from_first(int(result is not None), worker.device):
        yield Finished(result or {}, found=True)
        return
    yield Started(0, 0)
    started = time.perf_counter()
    rows = 0
    with together(worker.device):  # no worker may write before old drafts are gone
        if worker.is_first:
            remove_drafts(task.folder)
    with together(worker.device):
        for event in label(task.folder, plan, recipe.transfer_set, dataset, models, worker):
            rows += 0 if event.found else event.rows
            yield event
    with together(worker.device):
        written = int(summed(torch.tensor([float(rows)], device=worker.device)).item())
        if worker.is_first:
            manifest = write_manifest(task.folder, plan)
            seconds = time.perf_counter() - started
            finished = _result(task, recipe, manifest, written, seconds)
            write_json(task.folder / RESULT, finished)
    with together(worker.device):
        yield Finished(read_result(task.folder) or {}, found=False)


def _finished_manifest(task: Task, plan: Plan) -> Manifest | None:
    """The manifest of an earlier run, if there is one and it is of the same plan."""
    if not (task.folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(task.folder)
    check_identity(
        task.folder,
        flattened(manifest.plan.model_dump(mode="json")),
        flattened(plan.model_dump(mode="json")),
    )
    return manifest


def _result(
    task: Task, recipe: Recipe, manifest: Manifest, rows: int, seconds: float
) -> dict[str, Any]:
    plan = manifest.plan
    return {
        "stage": task.stage,
        "name": recipe.name,
        "status": "finished",
        "title": task.title,
        "metrics": {
            "rows": sum(entry.rows for entry in manifest.files),
            "train_rows": plan.rows_of("train") // plan.views,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "bytes_per_row": round(bytes_per_row(manifest), 2),
        },
        "images_per_s": round(rows / seconds, 1),
        "seconds": round(seconds, 2),
        "resumed_from": None,
        "parents": {
            "dataset": plan.dataset_fingerprint,
            **{f"teacher-{n:02d}": teacher.sha256 for n, teacher in enumerate(plan.teachers)},
        },
        "sha256": manifest.sha256,
        "identity": identity(task),
        "recipe": task.recipe,
        "versions": versions(),
    }
