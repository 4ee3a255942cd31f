"""Events in words: the figures of an epoch, a finished artefact, a duration."""

from rich.console import Console

from kd_ray.runs import Finished, Task


def say(console: Console, line: str, style: str | None = None) -> None:
    """Prints a line as it is: a log does not wrap it, and brackets in it mean nothing."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def figures(metrics: dict[str, float]) -> list[str]:
    """The figures of an epoch that one watches: the loss, and an accuracy.

    >>> figures({"train_loss": 0.25, "train_accuracy": 0.9})
    ['loss 0.2500', 'train accuracy 0.9000']
    """
    parts = [f"loss {metrics['train_loss']:.4f}"]
    if "accuracy" in metrics:
        parts.append(f"validation accuracy {metrics['accuracy']:.4f}")
    elif "train_accuracy" in metrics:
        parts.append(f"train accuracy {metrics['train_accuracy']:.4f}")
    return parts


def fitting(parts: list[str], room: int) -> str:
    """As many parts, from the first on, as `room` characters hold.

    >>> fitting(["loss 0.2500", "train accuracy 0.9000"], 20)
    'loss 0.2500'
    """
    shown = "  ".join(parts)
    return shown if len(shown) <= room or not parts else fitting(parts[:-1], room)


def finished_line(task: Task, event: Finished) -> str:
    """One line for an artefact that is whole."""
    result = event.result
    when = "was finished" if event.existed else f"finished in {duration(result.seconds)}"
    return f"{task.title}: {when}, {task.stage.summary(result)}"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them.

    >>> [duration(s) for s in (None, 7.25, 65, 3725)]
    ['-', '7.2 s', '1:05 min', '1:02 h']
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, unit = (seconds / 60, "h") if seconds >= 3600 else (seconds, "min")
    return f"{int(minutes) // 60}:{int(minutes) % 60:02d} {unit}"
