"""Events on the terminal: bars with rate and remaining time, or plain lines where there is none."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kd_ray.labelling import ShardDone
from kd_ray.loop import Epoch, Step
from kd_ray.stages import Event, Finished, Started, Task


class Display:
    """Shows a run's events; a context manager, since a live display must be taken down."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _Bars(console) if console.is_terminal else _Lines(console)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def show(self, task: Task, event: Event) -> None:
        """Takes one event."""
        self._bars.show(task, event)


class _Pace:
    """Epochs (or rows) done since a task started, and how long the rest will take."""

    def __init__(self, done: int, total: int) -> None:
        self.total = total
        self._first = done
        self._started = time.monotonic()

    def remaining_s(self, done: float) -> float | None:
        """Seconds left at the pace so far; None before anything is done."""
        made = done - self._first
        if made <= 0:
            return None
        return (time.monotonic() - self._started) / made * (self.total - done)


class _Lines:
    """One plain line per epoch, shard or finished task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._paces: dict[str, _Pace] = {}

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def show(self, task: Task, event: Event) -> None:
        if isinstance(event, Started):
            self._paces[task.title] = _Pace(event.done, event.epochs)
            if event.done:
                self._print(f"{task.title}: goes on after epoch {event.done} of {event.epochs}")
        elif isinstance(event, Epoch):
            pace = self._paces[task.title]
            self._print(
                f"{task.title}: epoch {event.number}/{pace.total}  {figures(event.metrics)}  "
                f"{event.images_per_s:,.0f} images/s  "
                f"remaining {duration(pace.remaining_s(event.number))}"
            )
        elif isinstance(event, ShardDone):
            how = "found" if event.found else "written"
            self._print(
                f"{task.title}: {event.name} {how}  {event.done_rows}/{event.all_rows} rows"
            )
        elif isinstance(event, Finished):
            self._print(finished_line(task, event))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class _Bars:
    """A bar for each task at work; finished ones become a line above."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TextColumn("[dim]{task.fields[figures]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._ids: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def show(self, task: Task, event: Event) -> None:
        title = task.title
        if isinstance(event, Finished):
            if title in self._ids:
                self._progress.remove_task(self._ids.pop(title))
            self._progress.console.print(finished_line(task, event), highlight=False)
            return
        if isinstance(event, Started):
            self._totals[title] = event.epochs
            self._ids[title] = self._progress.add_task(
                title,
                total=event.epochs or None,
                completed=event.done,
                count=f"{event.done}/{event.epochs}" if event.epochs else "",
                figures="",
                rate="",
            )
            return
        bar, total = self._ids[title], self._totals[title]
        changed: dict[str, Any]
        if isinstance(event, Step):
            changed = {"completed": event.epoch - 1 + event.done / event.steps}
        elif isinstance(event, Epoch):
            changed = {
                "completed": event.number,
                "count": f"{event.number}/{total}",
                "figures": figures(event.metrics),
            }
        else:
            changed = {
                "completed": event.done_rows,
                "total": event.all_rows,
                "count": f"{event.done_rows:,}/{event.all_rows:,} rows",
            }
        if not isinstance(event, ShardDone):
            changed["rate"] = f"{event.images_per_s:,.0f} images/s"
        self._progress.update(bar, **changed)


def figures(metrics: dict[str, float]) -> str:
    """The figures of an epoch that one watches: the loss, and an accuracy.

    >>> figures({"train_loss": 0.25, "train_accuracy": 0.9})
    'loss 0.2500  train accuracy 0.9000'
    """
    parts = [f"loss {metrics['train_loss']:.4f}"]
    if "accuracy" in metrics:
        parts.append(f"validation accuracy {metrics['accuracy']:.4f}")
    elif "train_accuracy" in metrics:
        parts.append(f"train accuracy {metrics['train_accuracy']:.4f}")
    return "  ".join(parts)


def finished_line(task: Task, event: Finished) -> str:
    """One line for an artefact that is whole."""
    result = event.result
    metrics = result["metrics"]
    if task.stage == "label":
        figure = f"{metrics['rows']:,} rows, {metrics['bytes_per_row']:.1f} bytes each"
    else:
        figure = f"test accuracy {metrics['accuracy']:.4f}, {metrics['errors']} errors"
    when = "was finished" if event.found else f"finished in {duration(result['seconds'])}"
    return f"{task.title}: {when}, {figure}"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them.

    >>> [duration(s) for s in (None, 7.25, 65, 3725)]
    ['-', '7.2 s', '1:05 min', '1:02 h']
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d} h"
