"""What lies in a run folder: results of finished tasks, and how far the others have got."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe, load_recipe
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.files import to_path
from kd_ray.result import RESULT, Result, read_result
from kd_ray.runs.stages import STAGES, commands_of, tasks_of
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.variants import OF_RECIPES
from kd_ray.training.checkpoint import META, epoch_folder, epochs_in, read_meta

RECIPE, SWEEP = "recipe.toml", "sweep"


@dataclass(frozen=True)
class Artefact:
    """One thing that a run makes.

    Attributes:
        place: folder, relative to the run's, with slashes; absolute of a teacher of another run.
        title: what a person calls it.
        kind: of which kind it is, see `result`; of a student its variant.
        epochs: how many will be trained in all; 0 where nothing is.
        result: its record, or None while it is unfinished.
        history: one record for each epoch that is on disk.
    """

    place: str
    title: str
    kind: str
    epochs: int
    result: Result | None
    history: list[dict[str, Any]]

    @property
    def progress(self) -> str:
        """How far an unfinished one has got."""
        if not self.history:
            return self.title
        return f"{self.title} ({self.history[-1]['epoch']} of {self.epochs} epochs)"

    @property
    def stage(self) -> Stage | None:
        """The stage that made a finished one; None of a sweep, or of a newer version's."""
        return None if self.result is None else STAGES.get(self.result.stage)


@dataclass(frozen=True)
class RunFolder:
    """A run as far as it has got.

    Attributes:
        path: absolute.
        recipe: what was asked for.
        recipe_text: the same as TOML.
        artefacts: in the order in which they are made.
    """

    path: Path
    recipe: Recipe
    recipe_text: str
    artefacts: list[Artefact]

    @property
    def results(self) -> list[Result]:
        """The records of everything that is finished."""
        return [artefact.result for artefact in self.artefacts if artefact.result is not None]

    @property
    def unfinished(self) -> list[Artefact]:
        """What the recipe asks for and is not there yet."""
        return [artefact for artefact in self.artefacts if artefact.result is None]


def read_run(folder: str | Path) -> RunFolder:
    """Reads a run folder; nothing in it is changed, and somebody may be writing to it.

    Raises:
        ConfigError: it is no run folder.
        CheckpointError: a result is not readable.
    """
    path = to_path(folder).absolute()
    if not (path / RECIPE).is_file():
        got = f"has no {RECIPE}" if path.is_dir() else "is no folder"
        raise ConfigError(
            f"{folder}: must be a run folder, but {got}; name one such as runs/quickstart"
        )
    recipe = load_recipe(path / RECIPE)
    text = (path / RECIPE).read_text(encoding="utf-8")
    asked = list(_asked(path, recipe))
    known = {artefact.place for artefact in asked}
    others = [a for a in _others(path) if a.place not in known]
    return RunFolder(path, recipe, text, [*asked, *others])


def _asked(path: Path, recipe: Recipe) -> Iterator[Artefact]:
    """What the recipe asks for."""
    begun = {folder.name for folder in path.glob("student/*")}
    # A study trains students of its own; the recipe's are asked for only where they were begun.
    studied = bool(begun - OF_RECIPES)
    for task in tasks_of(Request(recipe, str(path), commands_of(recipe))):
        if studied and task.variant and task.variant not in begun:
            continue
        yield _artefact(task, path)


def _artefact(task: Task, path: Path) -> Artefact:
    folder, result = task.folder, read_result(task.folder)
    below = folder.is_relative_to(path)  # unless it is the teacher of another run
    place = folder.relative_to(path).as_posix() if below else str(folder)
    if result is not None:
        return _finished(place, result)
    epochs = task.stage.training(task).epochs if task.stage.training else 0
    kind = task.variant or task.stage.kind
    return Artefact(place, task.title, kind, epochs, None, latest_history(folder))


def _finished(place: str, result: Result) -> Artefact:
    kind = result.variant or result.kind
    return Artefact(place, result.title, kind, len(result.history), result, result.history)


def _others(path: Path) -> Iterator[Artefact]:
    """What the recipe, as it is now, does not ask for: of an older one, or of a study."""
    begun = {file.parent.parent for file in path.rglob(f"epoch-*/{META}")}
    for folder in sorted({file.parent for file in path.rglob(RESULT)} | begun):
        place = folder.relative_to(path)
        if place.parts[0] == SWEEP and place.parts[1:]:  # a trial's; a sweep may have hundreds
            continue
        if result := read_result(folder):
            yield _finished(place.as_posix(), result)
        elif history := latest_history(folder):
            name = place.as_posix()
            yield Artefact(name, name, place.parent.name, len(history), None, history)


def latest_history(folder: Path) -> list[dict[str, Any]]:
    """Epochs of the latest checkpoint; a run that goes on may take it away while we look."""
    for epoch in reversed(epochs_in(folder)):
        with contextlib.suppress(CheckpointError):
            return read_meta(epoch_folder(folder, epoch)).history
    return []
