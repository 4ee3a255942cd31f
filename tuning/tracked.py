"""What a sweep tells its trackers: a run for each trial, whose metrics are means over its seeds.

What is on disk fills up what a driver that was killed had no time to tell.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kd_ray.result import read_result
from kd_ray.runs.folder import latest_history
from kd_ray.tracking.listener import Tracking
from tuning.outcome import TrialRow
from tuning.space import Settings
from tuning.trial import averaged, trial_folder
from tuning.trials import SweepEvent, TrialBegins, TrialOver, TrialReport


class TrackedTrials:
    """A listener of a sweep, before another one."""

    def __init__(
        self,
        trackers: Tracking,
        sweep: Path,
        metrics: Sequence[str],
        listener: Callable[[SweepEvent], None] | None,
    ) -> None:
        """Of the sweep in a folder, with the metrics that its trials are compared by."""
        self._trackers, self._sweep, self._metrics = trackers, sweep, metrics
        self._listener = listener
        self._settings: dict[int, Settings] = {}

    def catch_up(self, trials: Iterable[TrialRow]) -> None:
        """Tells of trials that were over before."""
        for trial in trials if self._trackers.is_on else ():
            if trial.state != "running":
                self._settings[trial.number] = trial.settings
                values = {m: trial.metrics[m] for m in self._metrics if m in trial.metrics}
                self._over(trial.number, trial.epochs, values)

    def note(self, event: SweepEvent) -> None:
        """Takes an event of the sweep."""
        if self._trackers.is_on:
            self._note(event)
        if self._listener is not None:
            self._listener(event)

    def _note(self, event: SweepEvent) -> None:
        if isinstance(event, TrialBegins):
            self._settings[event.point.number] = event.point.settings
            if event.point.resumed:
                self._tell(event.point.number, self._history(event.point.number))
        elif isinstance(event, TrialReport):
            record = {**event.epoch.metrics, "epoch": event.epoch.number}
            self._tell(event.number, [record])
        elif isinstance(event, TrialOver):
            self._over(event.number, event.epochs, event.values)

    def _over(self, number: int, epochs: int, values: dict[str, Any]) -> None:
        self._tell(number, self._history(number), {"epochs": epochs, **values})

    def _tell(self, number: int, history: list[dict[str, Any]], *figures: dict[str, Any]) -> None:
        place = f"{self._sweep.name}/{trial_folder(self._sweep, number).name}"
        title, settings = f"trial {number}", self._settings[number]
        self._trackers.note_trial(place, title, settings, history, *figures)

    def _history(self, number: int) -> list[dict[str, Any]]:
        """Means over the students of a trial after each epoch that all of them have on disk."""
        students = list(trial_folder(self._sweep, number).glob("student/*/seed-*"))
        results = [read_result(folder) for folder in students]
        histories = [
            latest_history(folder) if result is None else result.history
            for folder, result in zip(students, results, strict=True)
        ]
        reached = min(map(len, histories), default=0)
        if reached and None not in results:  # one that ended earlier stays what it was
            reached = max(map(len, histories))
        return [
            {**averaged([past[min(epoch, len(past)) - 1] for past in histories]), "epoch": epoch}
            for epoch in range(1, reached + 1)
        ]
