"""What the driver of a run or a sweep tells its trackers, event by event."""

import hashlib
import importlib.util
import json
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import ConfigError, KdRayError
from kd_ray.files import committed_file, is_stored
from kd_ray.result import Result
from kd_ray.runs import Event, Finished, Started, Task
from kd_ray.runs.fit import flattened, identity
from kd_ray.tracking.sender import Sender
from kd_ray.tracking.tracker import Metrics, TrackedRun
from kd_ray.tracking.trackers import TRACKERS
from kd_ray.training.progress import Epoch

HOME = "tracking"
ON_DISK = ("tensorboard", "wandb")
"""Trackers that keep files of their own in the run folder."""
COSTS = ("epochs", "parameters", "packed_bytes", "bit_operations", "seconds", "images_per_s")
"""Figures of a result beside its metrics."""


class Tracking:
    """The trackers of a recipe, as a listener of one run folder."""

    def __init__(self, recipe: Recipe, folder: Path, place: str, senders: list[Sender]) -> None:
        """Everything is told as a part of the run at `place`, which stands for all of the group."""
        self._senders, self._runs = senders, dict[Path, TrackedRun]()
        self._token = _token(folder / HOME) if senders else ""
        group = recipe.name if place == "run" else f"{recipe.name}/{place.partition('/')[0]}"
        table = recipe.model_dump(mode="json", exclude_none=True)
        self._whole = TrackedRun(
            self._key(place), place, group, place.partition("/")[0], group, flattened(table)
        )
        self._figures: dict[str, float] = {}

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to be told."""
        return bool(self._senders)

    def note(self, task: Task, event: Event) -> None:
        """Takes an event of a run."""
        if not self._senders:
            return
        if isinstance(event, Finished):
            figures, place = _figures(event.result), _place(task)
            self._figures |= {f"{place}/{name}": value for name, value in figures.items()}
            if task.stage.training is not None:
                self._put(self._run_of(task), event.result.history, figures)
        elif isinstance(event, Started) and event.epochs:
            self._put(self._run_of(task), event.history)
        elif isinstance(event, Epoch):
            self._put(self._run_of(task), [event.record()])
        self._speak()

    def note_trial(
        self,
        place: str,
        title: str,
        settings: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]],
        figures: Metrics | None = None,
    ) -> None:
        """Takes what is known of a trial; with figures it is over."""
        recipe = {**self._whole.recipe, **settings}
        group, parent = self._whole.group, self._whole.key
        run = TrackedRun(self._key(place), place, title, "trial", group, recipe, parent)
        self._put(run, history, figures)
        self._speak()

    def finish(self, page: Callable[[], Path], figures: Metrics | None = None) -> None:
        """Takes the figures of the whole, and its page, which is made only if it is wanted."""
        figures = self._figures if figures is None else figures
        lacking = [sender for sender in self._senders if sender.lacks(self._whole, figures)]
        report = None
        if lacking:
            with suppress(KdRayError):  # a run that is over is not to fail for it
                report = page()
        for sender in lacking:
            sender.put(self._whole, {}, (figures, report))

    def close(self) -> None:
        """Waits a little for what the trackers have not taken yet."""
        for sender in self._senders:
            sender.close()
        self._speak()

    def _put(
        self,
        run: TrackedRun,
        history: Iterable[Mapping[str, Any]],
        figures: Metrics | None = None,
    ) -> None:
        epochs = {int(record["epoch"]): _numbers(record) for record in history}
        for sender in self._senders:
            sender.put(run, epochs, None if figures is None else (figures, None), self._whole)

    def _run_of(self, task: Task) -> TrackedRun:
        if task.folder not in self._runs:
            place = _place(task)
            self._runs[task.folder] = TrackedRun(
                key=self._key(place, identity(task)),
                place=place,
                title=task.title,
                kind=task.stage.kind,
                group=self._whole.group,
                recipe=flattened(task.recipe_table()),
                parent=self._whole.key,
            )
        return self._runs[task.folder]

    def _key(self, *parts: Any) -> str:
        text = json.dumps([self._token, *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _speak(self) -> None:
        for sender in self._senders:
            for sentence in sender.said():
                warnings.warn(sentence, stacklevel=1)  # of one place, so each is shown once


@contextmanager
def tracking(recipe: Recipe, folder: Path, place: str = "run") -> Iterator[Tracking]:
    """The listener of a run whose folder is locked; `place` stands for all that it hears of.

    Raises:
        ConfigError: see `check_trackers`.
    """
    check_trackers(recipe, folder)
    told = Tracking(recipe, folder, place, list(_senders(recipe, folder)))
    try:
        yield told
    finally:
        told.close()


def check_trackers(recipe: Recipe, folder: Path) -> None:
    """Refuses trackers that cannot be used here.

    Raises:
        ConfigError: one is not installed, or cannot keep its files in an object store.
    """
    for name in _targets(recipe):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.{name}: needs {name}, which is not installed; install kd-ray[{name}], "
                "or leave the key out"
            )
        if name in ON_DISK and is_stored(folder):
            raise ConfigError(
                f"tracking.{name}: keeps files in the run folder, which must be on a disk, but is "
                f"{folder}; use mlflow or trackio, or a folder with --runs"
            )


def _targets(recipe: Recipe) -> dict[str, str]:
    """Tracker -> what it is given, of those that are asked for."""
    if recipe.tracking is None:
        return {}
    given = recipe.tracking.model_dump()
    return {name: str(value) for name, value in given.items() if value}


def _senders(recipe: Recipe, folder: Path) -> Iterator[Sender]:
    for name, target in _targets(recipe).items():
        yield Sender(name, target, TRACKERS[name], folder / HOME)


def _token(home: Path) -> str:
    """What tells the runs of a folder from those of every other folder in a tracker."""
    file = home / "id"
    if not file.is_file():
        with committed_file(file) as draft:
            draft.write_text(secrets.token_hex(8), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _place(task: Task) -> str:
    return task.folder.relative_to(task.run_folder).as_posix()


def _numbers(record: Mapping[str, Any]) -> Metrics:
    """The metrics of an epoch, those of layers with dots."""
    flat = {name: value for name, value in flattened(record).items() if name != "epoch"}
    return {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}


def _figures(result: Result) -> dict[str, float]:
    costs = {name: getattr(result, name) for name in COSTS}
    return dict(_numbers({**costs, **result.metrics}))
