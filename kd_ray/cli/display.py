"""Events on the terminal: bars with rate and remaining time, or plain lines where there is none.

A run that goes on counts from where it was. When Ray replaces a worker, the tasks are announced
once more: a bar then starts over at the epoch that is on disk, and what was finished stays said.
"""

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from kd_ray.cli.heartbeat import Clock, Heartbeat
from kd_ray.cli.wording import duration, figures, finished_line, fitting, say
from kd_ray.quant import dead_layers
from kd_ray.runs import Event, Finished, ShardDone, Started, Task, Waiting
from kd_ray.training.epoch import Turn
from kd_ray.training.progress import Epoch, Leg, Notice, Step

LINE_EVERY_S = 1.0
TELLING_S = 0.2
OTHER_COLUMNS = 80
"""Width of everything but an epoch's figures; these are shown where a terminal has room."""


class _Work:
    """How far a task is since it started here, and how long the rest will take.

    A training counts epochs; a labelling adds up the rows of the workers that have spoken so far.
    """

    def __init__(self, done: int, epochs: int, clock: Clock) -> None:
        self.epochs = epochs
        self._first = done
        self._clock = clock
        self._started = clock()
        self._latest: dict[int, ShardDone] = {}
        self._written = 0

    def add(self, event: ShardDone) -> None:
        """Each worker counts for itself, so its latest word replaces what it said before."""
        self._latest[event.worker] = event
        if not event.existed:
            self._written += event.rows

    def remaining_s(self, epoch: int) -> float | None:
        """Seconds left after an epoch, at the pace so far; None before anything is done."""
        made = epoch - self._first
        seconds = self._clock() - self._started
        return seconds / made * (self.epochs - epoch) if made > 0 else None

    @property
    def rows(self) -> tuple[int, int]:
        """Rows that are done, and rows in all."""
        events = self._latest.values()
        return sum(event.done_rows for event in events), sum(event.all_rows for event in events)

    @property
    def rows_per_s(self) -> float | None:
        """Rows written, earlier ones left out; None before there is enough to tell."""
        seconds = self._clock() - self._started
        return self._written / seconds if self._written and seconds >= TELLING_S else None


class Display:
    """Shows a run's events; a context manager, since a live display must be taken down."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        """Bars if `console` is a terminal; `clock` gives seconds."""
        self._console = console
        self._clock = clock
        self._view = _Bars(console) if console.is_terminal else _Lines(console, clock)
        self._works: dict[str, _Work] = {}
        self.heartbeat = Heartbeat(console, clock)
        self._finished: set[str] = set()
        self._dead: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        self._view.start()
        self.heartbeat.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.heartbeat.stop()
        self._view.stop()

    def show(self, task: Task, event: Event) -> None:
        """Takes one event."""
        self._tell_heartbeat(task.title, event)
        if isinstance(event, Waiting):
            say(self._console, f"{event.what} ...", style="dim")
        elif isinstance(event, Notice):
            where = f"step {event.done} of {event.steps} of epoch {event.epoch}"
            notice = f"{task.title}: a machine will be taken away; kept as it is at {where}"
            say(self._console, notice)
        elif task.title not in self._finished:
            if isinstance(event, Started) and event.held:
                say(self._console, f"{task.title}: its rows are {event.held}")
            self._view.show(task, event, self._work(task.title, event))
            if isinstance(event, Finished):
                self._finished.add(task.title)
                for line in task.stage.details(event.result):
                    say(self._console, f"  {line}")
            if isinstance(event, Epoch):
                self._warn_of_dead_layers(task.title, dead_layers(event.layers or {}))

    def _tell_heartbeat(self, title: str, event: Event) -> None:
        if isinstance(event, Step):
            how_far = f"epoch {event.epoch}, step {event.done} of {event.steps}"
            self.heartbeat.note(title, f"{how_far}  {event.images_per_s:,.0f} images/s")
            self.heartbeat.tick()
        elif isinstance(event, Waiting):
            self.heartbeat.note(event.what)
        else:
            self.heartbeat.note(f"next after {title}" if isinstance(event, Finished) else title)

    def _work(self, title: str, event: Event) -> _Work:
        # A replaced worker starts a training over; a labelling's rows are counted by their workers.
        if title not in self._works or (isinstance(event, Started) and event.epochs):
            done, epochs = (event.done, event.epochs) if isinstance(event, Started) else (0, 0)
            self._works[title] = _Work(done, epochs, self._clock)
        work = self._works[title]
        if isinstance(event, ShardDone):
            work.add(event)
        return work

    def _warn_of_dead_layers(self, title: str, layers: list[str]) -> None:
        """Once for each layer of a training."""
        new = [layer for layer in layers if (title, layer) not in self._dead]
        if not new:
            return
        self._dead |= {(title, layer) for layer in new}
        which = f"layer {new[0]} is" if len(new) == 1 else f"layers {', '.join(new)} are"
        warning = (
            f"warning: {title}: {which} dead, nearly all activations lie on one level, so nothing "
            "is passed on; lower the learning rate or use more bits if it stays so"
        )
        say(self._console, warning, style="yellow")


class _Lines:
    """A plain line for each epoch, shard and finished task.

    Where they come faster than one a second, lines are left out, but never the first and the last
    of a task. An epoch that took a second or more always has its line.
    """

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._printed: dict[str, float] = {}
        self._held: dict[str, str] = {}

    def start(self) -> None:
        pass

    def stop(self) -> None:
        """Prints the last lines of what was interrupted."""
        for line in self._held.values():
            say(self._console, line)

    def show(self, task: Task, event: Event, work: _Work) -> None:
        title = task.title
        if isinstance(event, Started):
            self._release(title)
            self._printed.pop(title, None)
            if event.done:
                say(self._console, f"{title}: goes on after epoch {event.done} of {event.epochs}")
        elif isinstance(event, Epoch):
            last = event.number == work.epochs
            shown = "  ".join([*figures(event.metrics), f"{event.images_per_s:,.0f} images/s"])
            line = f"{title}: epoch {event.number}/{work.epochs}  {shown}"
            if not last:
                line += f"  remaining {duration(work.remaining_s(event.number))}"
            self._offer(title, line, at_once=last or event.seconds >= LINE_EVERY_S)
        elif isinstance(event, ShardDone):
            how = "found" if event.existed else "written"
            done, total = work.rows
            line = f"{title}: {event.name} {how}  {done:,}/{total:,} rows"
            if (rate := work.rows_per_s) and done < total:
                line += f"  {rate:,.0f} rows/s  remaining {duration((total - done) / rate)}"
            self._offer(title, line)
        elif isinstance(event, Finished):
            self._release(title)
            say(self._console, finished_line(task, event))

    def _offer(self, title: str, line: str, at_once: bool = False) -> None:
        """Prints a line, or holds it back until the next one, or the end, makes its fate clear."""
        now = self._clock()
        if at_once or now - self._printed.get(title, -LINE_EVERY_S) >= LINE_EVERY_S:
            self._held.pop(title, None)
            self._printed[title] = now
            say(self._console, line)
        else:
            self._held[title] = line

    def _release(self, title: str) -> None:
        if (line := self._held.pop(title, None)) is not None:
            say(self._console, line)


class _Bars:
    """A bar for each task at work; finished ones become a line above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}", justify="right", table_column=Column(min_width=7)),
            TextColumn("[dim]{task.fields[figures]}"),
            TextColumn("{task.fields[rate]}", justify="right", table_column=Column(min_width=16)),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._ids: dict[str, TaskID] = {}
        self.start, self.stop = self._progress.start, self._progress.stop

    def show(self, task: Task, event: Event, work: _Work) -> None:
        title = task.title
        if isinstance(event, Finished):
            if title in self._ids:
                self._progress.remove_task(self._ids.pop(title))
            say(self._console, finished_line(task, event))
        elif isinstance(event, Started):
            self._begin(title, event.done, event.epochs)
        elif not isinstance(event, Waiting | Notice | Leg | Turn):
            if title not in self._ids:  # another worker's shard may come before the first's word
                self._begin(title, 0, 0)
            self._progress.update(self._ids[title], **self._change(event, work))

    def _begin(self, title: str, done: int, total: int) -> None:
        count = f"{done}/{total}" if total else ""
        fields: dict[str, Any] = {"total": total or None, "count": count, "figures": "", "rate": ""}
        if title not in self._ids:
            self._ids[title] = self._progress.add_task(title, completed=done, **fields)
        elif total:  # a replaced worker; a labelling's rows are counted by their workers anyway
            self._progress.reset(self._ids[title], completed=done, **fields)

    def _change(self, event: Step | Epoch | ShardDone, work: _Work) -> dict[str, Any]:
        if isinstance(event, ShardDone):
            done, total = work.rows
            count, rate = f"{done:,}/{total:,} rows", ""
            if work.rows_per_s:
                rate = f"{work.rows_per_s:,.0f} rows/s"
            return {"completed": done, "total": total, "count": count, "rate": rate}
        rate = f"{event.images_per_s:,.0f} images/s"
        if isinstance(event, Step):
            return {"completed": event.epoch - 1 + event.done / event.steps, "rate": rate}
        shown = fitting(figures(event.metrics), self._console.width - OTHER_COLUMNS)
        count = f"{event.number}/{work.epochs}"
        return {"completed": event.number, "count": count, "figures": shown, "rate": rate}
