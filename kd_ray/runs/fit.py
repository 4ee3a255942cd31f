"""Whether what lies in a folder fits what is asked: what determines an artefact, compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_ray.config.table import Table
from kd_ray.errors import CheckpointError, difference
from kd_ray.files import sha256_of, to_path
from kd_ray.result import EXPORT, JOINT_SET, RESULT, TRANSFER_SET, Result, read_result
from kd_ray.runs.task import Task
from kd_ray.training import checkpoint
from kd_ray.training.checkpoint import META, latest_checkpoint, read_meta
from kd_ray.transfer_set import manifest
from kd_ray.versions import versions

LATER = {
    ("labelled", 1.0),
    ("hold_out", 0.0),
    ("name", "hinton"),
    ("options", None),
    ("columns", None),
    ("speakers", None),
    ("soft_warmup", 0.0),
}
"""Keys that are younger than the first artefacts, and the value at which those still fit."""


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys.

    >>> flattened({"train": {"lr": 0.1}}, "teacher.")
    {'teacher.train.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def determining(table: Table, *left_out: str) -> dict[str, Any]:
    """A table without keys that determine nothing, and without later keys that are not used."""
    values = table.model_dump(mode="json", exclude=set(left_out))
    return {key: value for key, value in values.items() if not _is_later(key, value)}


def _is_later(key: str, value: Any) -> bool:
    return any(key == name and value == unused for name, unused in LATER)


def sha256_of_files(**files: Sequence[str]) -> dict[str, str]:
    """The sha256 of what an artefact is made from, by its name, where there is such a file."""
    paths = [(name, to_path(file)) for name, some in files.items() for file in some]
    return {name: sha256_of(path) for name, path in paths if path.is_file()}


def identity(task: Task) -> dict[str, Any]:
    """The part of the recipe that determines an artefact: dotted key -> value."""
    return flattened(task.stage.identity(task))


def record(task: Task, **fields: Any) -> Result:
    """The record of a task's artefact; `fields` are those of `Result` that no task knows."""
    return Result(
        stage=task.stage.name,
        kind=task.stage.kind,
        name=task.recipe.name,
        status="finished",
        title=task.title,
        identity=identity(task),
        recipe=task.recipe_table(),
        versions=versions(),
        **fields,
    )


def finished_result(task: Task, parents: Mapping[str, str] | None = None) -> Result | None:
    """The record of a task that an earlier attempt finished, or None if files of it are missing.

    Args:
        task: its folder may be empty.
        parents: artefact -> sha256 of all that it would be made from now; None to compare those
            that are there without opening any data.

    Raises:
        CheckpointError: another recipe, or another parent, made what is in the folder.
    """
    result = read_result(task.folder)
    if result is None or not _has_sizes(task.folder, result):
        latest = latest_checkpoint(task.folder) if task.stage.training else None
        if latest is not None:
            check_same(latest, read_meta(latest).identity, identity(task))
        return None
    check_same(task.folder, result.identity, identity(task))
    if parents is not None:
        check_same(task.folder, result.parents, parents)
        return result
    for made in (task, *task.sources):
        of_it = read_result(made.folder)
        if of_it is not None:
            now = made.stage.parents(made)
            check_same(made.folder, {name: of_it.parents.get(name) for name in now}, now)
    return result


def _has_sizes(folder: Path, result: Result) -> bool:
    """Whether the files of a finished artefact are there; what they hold, its readers check."""
    if result.checkpoint is not None:
        return checkpoint.has_sizes(folder / result.checkpoint)
    if result.kind == EXPORT:
        files = {folder / name: each["bytes"] for name, each in result.details["files"].items()}
        return all(file.is_file() and file.stat().st_size == size for file, size in files.items())
    return result.kind not in (TRANSFER_SET, JOINT_SET) or manifest.has_sizes(folder)


def check_same(where: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses an artefact that another recipe made.

    Args:
        where: the artefact.
        there: dotted key -> value, as recorded in it.
        here: the same of the run that wants to use it.

    Raises:
        CheckpointError: naming the first keys that differ, with both values.
    """
    if differing := difference(there, here):
        raise CheckpointError(
            f"{where}: was made by another recipe: {differing}; "
            "choose another name (--set name=...) or remove the folder"
        )


def result_model(folder: Path) -> Path:
    """The checkpoint that is the result of a teacher's, specialist's or student's folder.

    Raises:
        CheckpointError: its training has not finished, or it is the folder of something else.
    """
    result = read_result(folder)
    if result is None:
        raise CheckpointError(
            f"{folder}: training must have finished, but there is no {RESULT}; run it again first"
        )
    if result.checkpoint is None:
        raise CheckpointError(
            f"{folder}: must be a teacher's, specialist's or student's folder, but is that of the "
            f"{result.title}; name another"
        )
    return folder / result.checkpoint


def checkpoint_at(folder: Path) -> Path:
    """The checkpoint that a folder is, or that is the result of the training in it.

    Raises:
        CheckpointError: neither.
    """
    if (folder / META).is_file():
        return folder
    if (folder / RESULT).is_file():
        return result_model(folder)
    raise CheckpointError(
        f"{folder}: must be a checkpoint (a folder with {META}) or a finished training (with "
        f"{RESULT}), but has neither; name one such as runs/mnist/student/distilled/seed-0"
    )
