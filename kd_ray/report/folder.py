"""What lies in a run folder: results of finished tasks, and how far the others have got.

The stages that write these files stand on the same floor, so their JSON is read here anew; only the
names of folders are known twice.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe, load_recipe
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.files import to_path
from kd_ray.runs.variants import SPECIALIZED, is_asked_for, recipe_variants
from kd_ray.training.checkpoint import epoch_folder, epochs_in, read_meta

RECIPE, RESULT = "recipe.toml", "result.json"
KINDS = {
    "teach": "teacher",
    "label": "transfer set",
    "cluster": "clusters",
    "specialize": "specialist",
    "combine": "specialists' transfer set",
}
NEEDED = {"stage", "title", "metrics", "seconds"}
NEEDED_OF_TRAINING = {"variant", "parameters", "images_per_s", "history"}
PLACES = (
    *("teacher/member-*", "transfer_set", "student/*/seed-*"),
    *("specialists/clusters", "specialists/member-*", "specialists/transfer_set"),
)


@dataclass(frozen=True)
class Artefact:
    """One thing that a run makes.

    Attributes:
        place: folder, relative to the run's, with slashes; absolute of a teacher of another run.
        title: what a person calls it.
        kind: "teacher", "transfer set" or the student's variant.
        epochs: to train in all; 0 for the transfer set.
        result: content of its `result.json`, or None while it is unfinished.
        history: one record for each epoch that is on disk.
    """

    place: str
    title: str
    kind: str
    epochs: int
    result: dict[str, Any] | None
    history: list[dict[str, Any]]

    @property
    def progress(self) -> str:
        """How far an unfinished one has got."""
        if not self.history:
            return self.title
        return f"{self.title} ({self.history[-1]['epoch']} of {self.epochs} epochs)"


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
    def results(self) -> list[dict[str, Any]]:
        """Of everything that is finished."""
        return [artefact.result for artefact in self.artefacts if artefact.result is not None]

    @property
    def unfinished(self) -> list[Artefact]:
        """What the recipe asks for and is not there yet."""
        return [artefact for artefact in self.artefacts if artefact.result is None]


def read_run(folder: str | Path) -> RunFolder:
    """Reads a run folder; nothing in it is changed, and somebody may be writing to it.

    Raises:
        ConfigError: it is no run folder, or nothing in it is finished.
        CheckpointError: a result is not readable.
    """
    path = to_path(folder).absolute()
    if not path.is_dir():
        raise ConfigError(
            f"{folder}: must be a run folder, but is no folder; name one such as runs/quickstart"
        )
    if not (path / RECIPE).is_file():
        raise ConfigError(
            f"{folder}: must be a run folder, but has no {RECIPE}; name one such as runs/quickstart"
        )
    recipe = load_recipe(path / RECIPE)
    places = _places(path, recipe)
    artefacts = [_artefact(path, where, about) for where, about in places.items()]
    text = (path / RECIPE).read_text(encoding="utf-8")
    found = RunFolder(path, recipe, text, [artefact for artefact in artefacts if artefact.title])
    if not found.results:
        raise ConfigError(
            f"{folder}: a report needs something finished, but there is no {RESULT} yet; "
            "run the recipe first"
        )
    return found


def _places(path: Path, recipe: Recipe) -> dict[str, tuple[str, str, int]]:
    """Place -> (title, kind, epochs), of what the recipe asks for and of results it once did."""
    begun = {folder.name for folder in path.glob("student/*")}
    variants = recipe_variants(recipe)
    if any(is_asked_for(name) for name in begun):  # trained instead of the recipe's own students
        variants = [name for name in variants if name in begun]
    elif recipe.specialists is not None:
        variants = [*variants, SPECIALIZED]
    places = dict(_wanted(recipe, variants))
    for pattern in PLACES:
        for file in sorted(path.glob(f"{pattern}/{RESULT}")):
            places.setdefault(file.parent.relative_to(path).as_posix(), ("", "", 0))
    return places


def _wanted(recipe: Recipe, variants: list[str]) -> Iterator[tuple[str, tuple[str, str, int]]]:
    if recipe.transfer_set.path is None and recipe.teacher is not None:
        elsewhere = recipe.teacher.path
        home = "" if elsewhere is None else f"{to_path(elsewhere).absolute()}/"
        for member in range(recipe.teacher.members):
            about = (f"teacher {member}", "teacher", recipe.teacher.train.epochs)
            yield f"{home}teacher/member-{member:02d}", about
        yield "transfer_set", ("transfer set", "transfer set", 0)
    if recipe.specialists is not None:
        yield "specialists/clusters", ("clusters", "clusters", 0)
        for number in range(recipe.specialists.count):
            about = (f"specialist {number}", "specialist", recipe.specialists.train.epochs)
            yield f"specialists/member-{number:02d}", about
        yield "specialists/transfer_set", ("specialists' transfer set", "transfer set", 0)
    for variant in variants:
        for seed in recipe.train.seeds:
            title = f"student {variant}, seed {seed}"
            yield f"student/{variant}/seed-{seed}", (title, variant, recipe.train.epochs)


def _artefact(path: Path, where: str, about: tuple[str, str, int]) -> Artefact:
    title, kind, epochs = about
    elsewhere = where.startswith("/") or "://" in where
    folder = to_path(where) if elsewhere else path / where
    result = _result(folder / RESULT)
    if result is None:
        return Artefact(where, title, kind, epochs, None, _history(folder))
    kind = KINDS.get(result["stage"]) or str(result["variant"])
    history = list(result.get("history", []))
    return Artefact(where, str(result["title"]), kind, len(history), result, history)


def _result(file: Path) -> dict[str, Any] | None:
    try:
        result = json.loads(file.read_bytes())
        if result["status"] != "finished":
            return None
        without = ("label", "cluster", "combine")
        needed = NEEDED if result["stage"] in without else NEEDED | NEEDED_OF_TRAINING
        if missing := sorted(needed - set(result)):
            raise KeyError(*missing)
        return dict(result)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: must be a finished result, but cannot be read ({error!r}); "
            "remove it and run the recipe again"
        ) from error


def _history(folder: Path) -> list[dict[str, Any]]:
    """Of the latest checkpoint; a run that goes on may take it away while we look."""
    for epoch in reversed(epochs_in(folder)):
        with contextlib.suppress(CheckpointError):
            return read_meta(epoch_folder(folder, epoch)).history
    return []
