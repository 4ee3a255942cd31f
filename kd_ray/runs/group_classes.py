"""The stage that groups classes: which classes each specialist has, from the transfer set alone."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_ray.config import Recipe, SpecialistOptions
from kd_ray.errors import CheckpointError, TransferSetError
from kd_ray.files import to_path, write_json
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import RESULT, finished_result, read_result
from kd_ray.runs.identity import identity
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.task import Task, groups_folder
from kd_ray.runs.task import transfer_set_folder as labelled_folder
from kd_ray.specialists import ClassGroups, check_rows, find_groups
from kd_ray.training.checkpoint import versions
from kd_ray.training.workers import Worker, from_first, together
from kd_ray.transfer_set import TransferSet, open_transfer_set


def group_stage(task: Task, worker: Worker, inputs: Inputs) -> Iterator[Event]:
    """Writes the class groups of a "cluster" task; no model is run."""
    recipe = task.read_recipe()
    with together(worker.device):
        started = time.perf_counter()
        opened = open_transfer_set(labelled_folder(recipe, to_path(task.run)))
        parents = {"transfer_set": opened.manifest.sha256}
        result = finished_result(task, parents)
    if from_first(int(result is not None), worker.device):
        yield Finished(result or {}, found=True)
        return
    yield Started(0, 0)
    with together(worker.device):
        if worker.is_first:
            groups = groups_of(opened, recipe)
            seconds = time.perf_counter() - started
            finished = _result(task, recipe, groups, opened, seconds)
            write_json(task.folder / RESULT, {**finished, "parents": parents})
    with together(worker.device):
        yield Finished(read_result(task.folder) or {}, found=False)


def groups_of(opened: TransferSet, recipe: Recipe) -> ClassGroups:
    """The groups that a recipe asks for, from the training rows and views of a transfer set.

    Raises:
        ConfigError: `[specialists]` does not fit the classes; see `specialists.find_groups`.
        TransferSetError: rows or the generalist's logits are missing.
    """
    options = _options(recipe)
    plan = opened.manifest.plan
    check_generalist(options, len(plan.teachers))
    logits = opened.train.logits[:, :, options.generalist]  # (N, V, K)
    plain: Tensor = logits[:, 0].argmax(dim=1)
    check_rows(opened.train.labels, plain, plan.class_names, len(opened.test.index))
    return find_groups(
        (logits.flatten(0, 1) / options.temperature).softmax(dim=1),
        plan.class_names,
        count=options.count,
        classes_each=options.classes_each,
        seed=options.seed,
    )


def check_generalist(options: SpecialistOptions, members: int) -> None:
    """Refuses a generalist whose logits a transfer set does not have.

    Raises:
        TransferSetError: naming the member.
    """
    if options.generalist >= members:
        raise TransferSetError(
            f"specialists.generalist: member {options.generalist} must have labelled the transfer "
            f"set, but that has the logits of {members}, counted from 0; choose one of them"
        )


def read_groups(run: Path) -> tuple[ClassGroups, str]:
    """The groups of a run, and their sha256.

    Raises:
        CheckpointError: they have not been found yet.
    """
    folder = groups_folder(run)
    result = read_result(folder)
    if result is None:
        raise CheckpointError(
            f"{folder}: the groups of classes must have been found, but there is no {RESULT}; "
            "run kd-ray specialize first"
        )
    special = tuple(tuple(some) for some in result["special"])
    return ClassGroups(tuple(result["of_class"]), special), str(result["sha256"])


def _options(recipe: Recipe) -> SpecialistOptions:
    assert recipe.specialists is not None  # else there is no such task
    return recipe.specialists


def _result(
    task: Task, recipe: Recipe, groups: ClassGroups, opened: TransferSet, seconds: float
) -> dict[str, Any]:
    names = opened.manifest.plan.class_names
    content = {"of_class": list(groups.of_class), "special": [list(s) for s in groups.special]}
    text = json.dumps([content, names], sort_keys=True)
    return {
        "stage": task.stage,
        "name": recipe.name,
        "status": "finished",
        "title": task.title,
        "metrics": {
            "specialists": len(groups.special),
            "rows": len(opened.train.index) * opened.manifest.plan.views,
            "smallest": min(map(len, groups.special)),
            "largest": max(map(len, groups.special)),
        },
        **content,
        "class_names": list(names),
        "seconds": round(seconds, 2),
        "resumed_from": None,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "identity": identity(task),
        "recipe": task.recipe,
        "versions": versions(),
    }
