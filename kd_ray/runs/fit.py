"""What earlier runs left behind: finished results, and whether they are of this recipe."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import CheckpointError
from kd_ray.files import to_path
from kd_ray.runs.identity import identity
from kd_ray.runs.task import (
    Task,
    generalist_folder,
    groups_folder,
    specialist_folder,
    teacher_folders,
    transfer_set_folder,
)
from kd_ray.runs.variants import SPECIALIZED
from kd_ray.training.checkpoint import WEIGHTS, check_identity, epoch_folder, epochs_in, read_meta
from kd_ray.transfer_set import read_manifest
from kd_ray.transfer_set.manifest import MANIFEST

RESULT = "result.json"


def start_checkpoint(task: Task, recipe: Recipe) -> Path | None:
    """The latest checkpoint that `student.continues` means for a task's seed, if there is one."""
    if recipe.student.continues is None:
        return None
    folder = to_path(recipe.student.continues) / f"seed-{task.seed}"
    epochs = epochs_in(folder)
    return epoch_folder(folder, epochs[-1]) if epochs else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The finished result of an artefact's folder, or None.

    Raises:
        CheckpointError: there is a file, but no result in it.
    """
    file = folder / RESULT
    try:
        result = json.loads(file.read_bytes())
        return dict(result) if result["status"] == "finished" else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: must be a finished result, but cannot be read ({error}); "
            "remove it and run the same again"
        ) from error


def result_model(folder: Path) -> Path:
    """The checkpoint that is the result of a teacher's or student's folder.

    Raises:
        CheckpointError: its training has not finished, or it is the folder of something else.
    """
    result = read_result(folder)
    if result is None:
        raise CheckpointError(
            f"{folder}: training must have finished, but there is no {RESULT}; run it again first"
        )
    if "checkpoint" not in result:
        raise CheckpointError(
            f"{folder}: must be a teacher's, specialist's or student's folder, but is that of the "
            f"{result['title']}; name another"
        )
    return folder / str(result["checkpoint"])


def finished_result(task: Task, parents: Mapping[str, str]) -> dict[str, Any] | None:
    """The result of a task that an earlier run finished, or None.

    Args:
        task: its folder may be empty.
        parents: artefact -> sha256 of what it would be made from now.

    Raises:
        CheckpointError: another recipe, or another parent, made what is in the folder.
    """
    result = read_result(task.folder)
    if result is not None:
        check_identity(task.folder, result["identity"], identity(task))
        check_identity(task.folder, result["parents"], parents)
    return result


def found_result(task: Task) -> dict[str, Any] | None:
    """The result of a task that an earlier run finished, or None; reads no dataset.

    Raises:
        CheckpointError: another recipe, or another parent, made what is in the folder.
    """
    result = read_result(task.folder)
    if result is not None:
        check_identity(task.folder, result["identity"], identity(task))
        _check_parents(task, result)
        return result
    latest = epochs_in(task.folder)
    if latest:
        path = epoch_folder(task.folder, latest[-1])
        check_identity(path, read_meta(path).identity, identity(task))
    return None


def _check_parents(task: Task, result: dict[str, Any]) -> None:
    """Refuses a finished artefact if what it was made from has been made anew since."""
    now = _parents(task)
    check_identity(task.folder, {name: result["parents"].get(name) for name in now}, now)
    if task.stage == "distill":
        label = replace(task, stage="combine" if task.variant == SPECIALIZED else "label")
        labelled = read_result(label.folder)
        if labelled is not None and now.get("transfer_set") == labelled["sha256"]:
            _check_parents(label, labelled)


def _parents(task: Task) -> dict[str, str]:
    """Name -> sha256 of what an artefact is made from, as far as that is there."""
    recipe, run = Recipe.model_validate(task.recipe), to_path(task.run)
    if task.stage == "distill":
        folder = transfer_set_folder(recipe, run, task.variant)
        start = start_checkpoint(task, recipe)
        there = (folder / MANIFEST).is_file()
        return {
            **({"transfer_set": read_manifest(folder).sha256} if there else {}),
            **({} if start is None else {"checkpoint": read_meta(start).files[WEIGHTS]}),
        }
    if task.stage == "label":
        results = [read_result(folder) for folder in teacher_folders(recipe, run)]
        return {f"teacher-{n:02d}": r["weights_sha256"] for n, r in enumerate(results) if r}
    if task.stage in ("cluster", "specialize", "combine"):
        return _specialists_parents(task, recipe)
    return {}


def _specialists_parents(task: Task, recipe: Recipe) -> dict[str, str]:
    """The same of class groups, a specialist, or the specialists' transfer set."""
    assert recipe.specialists is not None
    run, found = to_path(task.run), {}
    sources: dict[str, tuple[Path, str]] = {}
    if task.stage == "specialize":
        sources["generalist"] = generalist_folder(recipe, run), "weights_sha256"
        sources["clusters"] = groups_folder(run), "sha256"
    elif task.stage == "combine":
        for number in range(recipe.specialists.count):
            name = f"specialist-{number:02d}"
            sources[name] = specialist_folder(run, number), "weights_sha256"
    for name, (folder, key) in sources.items():
        result = read_result(folder)
        if result is not None:
            found[name] = str(result[key])
    labelled = transfer_set_folder(recipe, run)
    if task.stage != "specialize" and (labelled / MANIFEST).is_file():
        found["transfer_set"] = read_manifest(labelled).sha256
    return found
