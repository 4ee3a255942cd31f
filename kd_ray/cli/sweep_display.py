"""A sweep on the terminal: a live table of its trials, or a plain line for each that ends."""

import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kd_ray.cli.heartbeat import Clock
from kd_ray.cli.tables import plain_table
from kd_ray.cli.wording import duration, say
from kd_ray.config import SweepOptions
from tuning.outcome import figure
from tuning.space import names_shown, shown
from tuning.trials import SweepBegins, SweepEvent, TrialBegins, TrialOver, TrialReport

ROWS = 12
"""Trials in the live table: those running, and the latest of those that are over."""


class SweepDisplay:
    """Shows a sweep's events; a context manager, since a live table must be taken down."""

    def __init__(self, console: Console, options: SweepOptions, clock: Clock = time.monotonic):
        """A live table if `console` is a terminal; `clock` gives seconds."""
        self._console = console
        self._options = options
        self._clock = clock
        self._rows: dict[int, dict[str, str]] = {}
        self._over = self._left = self._ended = 0
        self._parts: dict[int, tuple[float, float]] = {}
        self._best: tuple[int, float] | None = None
        self._started = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: SweepEvent) -> None:
        """Takes one event."""
        if isinstance(event, SweepBegins):
            self._begin(event)
        elif isinstance(event, TrialBegins):
            self._show_begun(event)
        elif isinstance(event, TrialReport):
            self._show_epoch(event)
        else:
            self._show_over(event)
        if self._live is not None:
            self._live.update(self._table())

    def _begin(self, event: SweepBegins) -> None:
        self._over, self._left, self._best = event.over, event.left, event.best
        self._started = self._clock()
        if event.over:
            best = "" if event.best is None else f", {self._best_told()}"
            say(self._console, f"sweep: goes on after {event.over} trials, {event.left} left{best}")
        if self._console.is_terminal and event.left:
            self._live = Live(self._table(), console=self._console, transient=True)
            self._live.start()

    def _show_begun(self, event: TrialBegins) -> None:
        settings = shown(event.point.settings, self._options)
        self._rows[event.point.number] = {
            "trial": str(event.point.number),
            "state": "running",
            **{name: settings.get(name, "-") for name in names_shown(self._options)},
            "epoch": "",
            **dict.fromkeys(self._options.metrics, ""),
        }
        if self._live is None:
            words = ", ".join(f"{name} {value}" for name, value in settings.items())
            again = " goes on" if event.point.resumed else ""
            say(self._console, f"trial {event.point.number}{again}: {words or 'as in the recipe'}")

    def _show_epoch(self, event: TrialReport) -> None:
        row = self._rows[event.number]
        row["epoch"] = f"{event.epoch.number}/{event.epoch.epochs}"
        part, epochs = event.epoch.number / event.epoch.epochs, event.epoch.epochs
        self._parts[event.number] = (self._parts.get(event.number, (part - 1 / epochs,))[0], part)
        for metric in self._options.metrics:
            if metric in event.epoch.metrics:
                row[metric] = figure(metric, event.epoch.metrics[metric])

    def _show_over(self, event: TrialOver) -> None:
        row = self._rows[event.number]
        row["state"] = event.state
        row |= {metric: figure(metric, value) for metric, value in event.values.items()}
        self._over, self._ended, self._left = self._over + 1, self._ended + 1, self._left - 1
        self._parts.pop(event.number, None)
        if event.state == "finished":
            self._note_best(event)
        figures = [f"{metric} {row[metric]}" for metric in self._options.metrics if row[metric]]
        what = ", ".join([f"{event.state} after {event.epochs} epochs", *figures])
        if event.cause is not None:
            what = f"failed: {event.cause}"
        if self._live is None or event.cause is not None:
            say(self._console, f"trial {event.number}: {what}  ({self.standing()})")

    def _note_best(self, event: TrialOver) -> None:
        value = event.values[self._options.metrics[0]]
        sign = 1 if self._options.directions[0] == "maximize" else -1
        if self._best is None or sign * value > sign * self._best[1]:
            self._best = (event.number, value)

    def _best_told(self) -> str:
        if self._best is None:
            return "no trial finished yet"
        number, value = self._best
        metric = self._options.metrics[0]
        return f"best {metric} {figure(metric, value)} in trial {number}"

    def standing(self) -> str:
        """How many trials are over, the best one, and the remaining time."""
        parts = [f"{self._over} of {self._over + self._left}", self._best_told()]
        done = self._ended + sum(now - before for before, now in self._parts.values())
        if done and self._left:  # trials that are trained together end together
            left = self._left - sum(now for _, now in self._parts.values())
            seconds = (self._clock() - self._started) / done * left
            parts.append(f"remaining {duration(seconds)}")
        return ", ".join(parts)

    def _table(self) -> Group:
        numbers = sorted(self._rows, key=lambda n: (self._rows[n]["state"] == "running", n))[-ROWS:]
        title = Text(f"sweep: {self.standing()}", style="bold")
        if not numbers:
            return Group(title)
        return Group(title, plain_table("", [self._rows[number] for number in numbers]))
