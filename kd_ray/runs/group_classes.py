"""The stage that groups classes: which classes each specialist has, from the transfer set alone."""

import hashlib
import json
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_ray.config import Recipe, SpecialistOptions
from kd_ray.errors import CheckpointError, ConfigError, TransferSetError
from kd_ray.result import CLASS_GROUPS, RESULT, Result, read_result
from kd_ray.runs.events import Event
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import labelled_parent, transfer_set_folder
from kd_ray.runs.make import Made, make
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.specialists import ClassGroups, check_classes, check_rows, find_groups
from kd_ray.training.workers import Worker, together
from kd_ray.transfer_set import TransferSet, open_transfer_set


def options_of(recipe: Recipe) -> SpecialistOptions:
    """`[specialists]`.

    Raises:
        ConfigError: the recipe has none.
    """
    if recipe.specialists is None:
        raise ConfigError(
            "specialists: this table is needed to specialize, but the recipe has none; "
            "add [specialists] with count = 10, say, or use kd-ray run"
        )
    return recipe.specialists


def groups_of(opened: TransferSet, recipe: Recipe) -> ClassGroups:
    """The groups that a recipe asks for, from the training rows and views of a transfer set.

    Raises:
        ConfigError: `[specialists]` does not fit the classes; see `specialists.check_classes`.
        TransferSetError: rows or the generalist's logits are missing.
    """
    options = options_of(recipe)
    plan = opened.manifest.plan
    check_classes(recipe, plan.class_names)
    check_generalist(options, len(plan.teachers))
    if plan.teachers[0].is_imported:
        raise TransferSetError(
            "specialists: start from the weights of the teacher that labelled, but the transfer "
            f"set is {plan.teachers[0].origin}, and that teacher is not here; leave them out"
        )
    logits = opened.train.logits[:, :, options.generalist]  # (N, V, K)
    plain: Tensor = logits[:, 0].argmax(dim=1)
    check_rows(opened.train.labels, plain, plan.class_names, len(opened.test.index))
    predictions = (logits.flatten(0, 1) / options.temperature).softmax(dim=1)
    return find_groups(predictions, options)


def check_generalist(options: SpecialistOptions, members: int) -> None:
    """Refuses a generalist whose logits a transfer set does not have: a `TransferSetError`."""
    if options.generalist >= members:
        raise TransferSetError(
            f"specialists.generalist: member {options.generalist} must have labelled the transfer "
            f"set, but that has the logits of {members}, counted from 0; choose one of them"
        )


def groups_in(result: Result) -> ClassGroups:
    """The groups that a record of this stage holds."""
    special = tuple(tuple(some) for some in result.details["special"])
    return ClassGroups(tuple(result.details["of_class"]), special)


def read_groups(run: Path) -> tuple[ClassGroups, str]:
    """The groups of a run, and their sha256.

    Raises:
        CheckpointError: they have not been found yet.
    """
    folder = _folder(run)
    result = read_result(folder)
    if result is None:
        raise CheckpointError(
            f"{folder}: the groups of classes must have been found, but there is no {RESULT}; "
            "run kd-ray specialize first"
        )
    return groups_in(result), result.fingerprint


def group_lines(result: Result) -> Sequence[str]:
    """Two lines for each specialist: its classes, and those that it shares with others."""
    names, groups = result.details["class_names"], groups_in(result)
    lines = []
    for number, special in enumerate(groups.special):
        own = sum(groups.of_class[place] == number for place in special)
        group = groups.of_class.count(number)
        size = "its group"
        if not own == group == len(special):
            size = f"{own} of its group's {group}, {len(special) - own} others"
        lines.append(
            f"specialist {number}: {len(special)} classes ({size}): {_named(names, special)}"
        )
        shared = [
            f"{len(classes)} with {other} ({_named(names, classes)})"
            for other, classes in groups.overlaps(number).items()
        ]
        lines.append(f"  shares {', '.join(shared)}" if shared else "  shares none")
    return lines


def _named(names: Sequence[str], classes: Sequence[int]) -> str:
    return " ".join(names[number] for number in classes)


def _folder(run: Path) -> Path:
    return run / "specialists" / "clusters"


def _tasks(request: Request) -> list[Task]:
    options_of(request.recipe)
    return [request.task(GROUP_CLASSES)]


def _identity(task: Task) -> dict[str, Any]:
    options = options_of(task.recipe).model_dump(mode="json")
    determining = ("generalist", "count", "classes_each", "temperature", "seed")
    return {"specialists": {name: options[name] for name in determining}}


def _open(task: Task, worker: Worker, inputs: Inputs) -> tuple[TransferSet, dict[str, str]]:
    source = open_transfer_set(transfer_set_folder(task.recipe, task.run_folder))
    return source, {"transfer_set": source.manifest.sha256}


def _make(task: Task, worker: Worker, source: TransferSet) -> Generator[Event, None, Made]:
    yield from ()
    with together(worker.device):
        groups, names = groups_of(source, task.recipe), source.manifest.plan.class_names
    content = {"of_class": list(groups.of_class), "special": [list(s) for s in groups.special]}
    text = json.dumps([content, names], sort_keys=True)
    sizes = list(map(len, groups.special))
    fields = {
        "metrics": {
            "specialists": len(sizes),
            "rows": len(source.train.index) * source.manifest.plan.views,
            "smallest": min(sizes),
            "largest": max(sizes),
        },
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "class_names": list(names),
        **content,
    }
    return fields, 0


def _summary(result: Result) -> str:
    smallest, largest = result.metrics["smallest"], result.metrics["largest"]
    each = str(smallest) if smallest == largest else f"{smallest} to {largest}"
    return f"{result.metrics['specialists']} specialists of {each} classes"


GROUP_CLASSES = Stage(
    name="cluster",  # of the first artefacts, which are read still
    kind=CLASS_GROUPS,
    commands=("specialize",),
    table="specialists",
    tasks=_tasks,
    title=lambda task: "class groups",
    folder=lambda task: _folder(task.run_folder),
    identity=_identity,
    parents=labelled_parent,
    perform=partial(make, _open, _make),
    summary=_summary,
    details=group_lines,
)
