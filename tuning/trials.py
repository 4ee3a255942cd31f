"""The trials of one sweep as whoever runs them sees them: handed out, heard of, ended."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import ClusterError, ConfigError, KdRayError
from kd_ray.pipeline import catalogue_problems
from kd_ray.runs import Task
from kd_ray.runs.events import Grouped
from kd_ray.training.metrics import FIGURES
from kd_ray.training.words import WORD_FIGURES
from tuning.ledger import Ledger, Point, State, awaited_epochs
from tuning.space import Settings, trial_recipe
from tuning.trial import COSTS, Report, TrialEnd, TrialEpoch, trial_tasks


@dataclass(frozen=True)
class SweepBegins:
    """The first event: trials that are over and left, number and first metric of the best one."""

    over: int
    left: int
    best: tuple[int, float] | None


@dataclass(frozen=True)
class TrialBegins:
    """A trial is handed out."""

    point: Point


@dataclass(frozen=True)
class TrialOver:
    """A trial is in the ledger for good.

    It has a value for each metric, or of a failure the cause; "stopped" it was by the scheduler.
    """

    number: int
    state: State
    values: dict[str, float]
    epochs: int
    cause: str | None = None


@dataclass(frozen=True)
class TrialReport:
    """A trial has finished an epoch."""

    number: int
    epoch: TrialEpoch


SweepEvent = SweepBegins | TrialBegins | TrialReport | TrialOver


@dataclass
class Trials:
    """Hands out the trials of a sweep and writes down what becomes of them.

    Attributes:
        recipe: of the sweep.
        ledger: opened.
        folder: absolute, of the sweep.
        transfer_set: absolute folder that all trials share.
        data_root: folder of the dataset's files, or None.
        listener: called with every event.
        error: what halted the sweep; trials that ran then are in flight.
    """

    recipe: Recipe
    ledger: Ledger
    folder: Path
    transfer_set: Path
    data_root: str | None
    listener: Callable[[SweepEvent], None]
    error: KdRayError | None = field(default=None, init=False)
    _epochs: dict[int, TrialEpoch] = field(default_factory=dict, init=False)
    _noted: set[tuple[int, int]] = field(default_factory=set, init=False)
    _losses: Counter[int] = field(default_factory=Counter, init=False)

    @property
    def is_halted(self) -> bool:
        """Whether no trial is begun or goes on any more."""
        return self.error is not None or self.ledger.gave_up

    @contextmanager
    def halting(self) -> Iterator[None]:
        """Keeps an error of the block, as Tune would take it for one of the trial."""
        try:
            yield
        except KdRayError as error:
            self.error = self.error or error

    def next(self, most: int | None = None) -> dict[int, list[Task]]:
        """Number -> tasks of the next trials to be trained together; none when all are handed out.

        Which go together depends on their numbers alone, so that a sweep that was killed hands out
        those that are left of the same. A point whose values do not go together is a failed trial.

        Args:
            most: trials; None for as many as the ledger says.
        """
        width = min(self.ledger.width, most or self.ledger.width)
        handed: dict[int, list[Task]] = {}
        while not self.is_halted and (number := self.ledger.upcoming) is not None:
            if handed and number >= (min(handed) // width + 1) * width:
                break
            point = self.ledger.next()
            assert point is not None
            self.listener(TrialBegins(point))
            try:
                handed[point.number] = self.tasks_of(point.number, point.settings)
            except ConfigError as error:
                self.ended(point.number, TrialEnd(cause=str(error)))
        return handed

    def tasks_of(self, number: int, settings: Settings) -> list[Task]:
        """The students of a trial, a task for each seed.

        Raises:
            ConfigError: the trial's values do not go together.
        """
        recipe = trial_recipe(self.recipe, settings, [catalogue_problems])
        return trial_tasks(
            recipe,
            self.folder,
            number,
            transfer_set=self.transfer_set,
            data_root=self.data_root,
            awaited=awaited_epochs(self.ledger.options, recipe.train.epochs),
        )

    def take(self, number: int, report: Report) -> bool:
        """Notes what is told of a trial; says whether it is over."""
        if isinstance(report, Grouped):
            self.ledger.found(report.as_one)
            return False
        if isinstance(report, TrialEnd):
            self.ended(number, report)
            return True
        return self.heard(number, report)

    def heard(self, number: int, epoch: TrialEpoch) -> bool:
        """Notes an epoch of a trial; says whether the trial is stopped, which is noted then."""
        self._epochs[number] = epoch
        self.listener(TrialReport(number, epoch))
        value = epoch.metrics.get(self.ledger.options.metrics[0])
        stop = value is not None and self.ledger.report(number, epoch.number, value)
        self._noted.add((number, epoch.number))
        if stop and epoch.awaited:
            about = _about(epoch.metrics, epoch.number, epoch.seconds)
            self.ledger.prune(number, about)
            self._over(number, "stopped", epoch.metrics, epoch.number)
        return stop and epoch.awaited

    def lost(self, number: int, allowed: int) -> None:
        """Notes that a trial's process died: it goes on elsewhere.

        Raises:
            ClusterError: it has died more often than is allowed.
        """
        self._losses[number] += 1
        if self._losses[number] > allowed:
            raise ClusterError(
                f"trial {number}: its process was lost more often than resources.max_failures "
                f"({allowed}) allows; look for a lack of memory, then run the same again to go on"
            )
        self.ledger.again(number)

    def ended(self, number: int, end: TrialEnd) -> None:
        """Notes a trial that came to its end, or failed.

        Raises:
            KdRayError: the trial did neither, but the machine did.
        """
        if end.error is not None:
            raise end.error
        if end.cause is not None:
            last = self._epochs.get(number, TrialEpoch(0, 0, {}))
            about = {"epochs": last.number, "seconds": round(last.seconds, 3)}
            self.ledger.fail(number, end.cause, about)
            self._over(number, "failed", {}, last.number, end.cause)
            return
        metric = self.ledger.options.metrics[0]
        for epoch, record in enumerate(end.history, start=1):
            # A driver that was killed may have missed some.
            if metric in record and (number, epoch) not in self._noted:
                self.ledger.report(number, epoch, record[metric])
        about = _about(end.metrics, end.epochs, end.seconds)
        cause = self.ledger.complete(number, end.metrics, about)
        state: State = "finished" if cause is None else "failed"
        self._over(number, state, {} if cause else end.metrics, end.epochs, cause)

    def _over(self, number: int, state: State, metrics: dict[str, float], *about: Any) -> None:
        wanted = self.ledger.options.metrics
        values = {name: metrics[name] for name in wanted if name in metrics}
        self.listener(TrialOver(number, state, values, *about))


def _about(metrics: dict[str, float], epochs: int, seconds: float) -> dict[str, Any]:
    """What the study keeps of a trial beside its parameters and its values."""
    known = (*FIGURES, *WORD_FIGURES, *COSTS)
    kept = {name: value for name, value in metrics.items() if name in known}
    return {"epochs": epochs, "metrics": kept, "seconds": round(seconds, 3)}
