"""Figures of a run: one row for each kind of model, mean and spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A figure over seeds.

    Attributes:
        mean: of the values.
        spread: sample standard deviation; None for a single value.
        values: one for each seed.
    """

    mean: float
    spread: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Mean and spread of at least one value.

        >>> Figure.of([1.0, 2.0, 3.0])
        Figure(mean=2.0, spread=1.0, values=(1.0, 2.0, 3.0))
        """
        spread = stdev(values) if len(values) > 1 else None
        return cls(mean(values), spread, tuple(values))

    def shown(self, digits: int) -> str:
        """Mean and spread as text.

        >>> Figure.of([70.0, 74.0]).shown(1)
        '72.0 ± 2.8'
        """
        text = f"{self.mean:,.{digits}f}"
        return text if self.spread is None else f"{text} ± {self.spread:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A kind of model: the teacher, or one variant of the student.

    Attributes:
        name: "teacher", "distilled" or a baseline.
        metrics: figures on the test split, by the names of `metrics.summarize`.
        parameters: of one model.
        seconds: of training one model.
        images_per_s: of training.
    """

    name: str
    metrics: dict[str, Figure]
    parameters: int
    seconds: Figure
    images_per_s: Figure


@dataclass(frozen=True)
class Summary:
    """What a run comes to.

    Attributes:
        folder: of the run.
        rows: teacher first, then baselines, then the distilled student.
        transfer_set: rows, bytes and seconds of the labelling, or None.
    """

    folder: Path
    rows: list[Row]
    transfer_set: dict[str, float] | None = None
    results: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def row(self, name: str) -> Row | None:
        """The row of that name, or None."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def gap_closed(self) -> float | None:
        """Share of the errors between hard labels and teacher that distilling removed.

        (labels - distilled) / (labels - teacher), in mean test errors; None where one is missing,
        or where the teacher is no better than the student on labels.
        """
        rows = [self.row(name) for name in ("labels", "distilled", "teacher")]
        if not all(rows):
            return None
        labels, distilled, teacher = (row.metrics["errors"].mean for row in rows if row)
        return (labels - distilled) / (labels - teacher) if labels > teacher else None


def summarize_results(folder: Path, results: Sequence[dict[str, Any]]) -> Summary:
    """Groups the results of a run by kind of model.

    Args:
        folder: of the run.
        results: contents of `result.json` files.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    transfer_set = None
    for result in results:
        if result["stage"] == "label":
            transfer_set = {**result["metrics"], "seconds": result["seconds"]}
            continue
        name = "teacher" if result["stage"] == "teach" else result["variant"]
        groups.setdefault(name, []).append(result)
    order = sorted(groups, key=lambda name: (name != "teacher", name == "distilled"))
    return Summary(folder, [_row(n, groups[n]) for n in order], transfer_set, list(results))


def _row(name: str, results: list[dict[str, Any]]) -> Row:
    return Row(
        name=name,
        metrics={
            key: Figure.of([result["metrics"][key] for result in results])
            for key in results[0]["metrics"]
        },
        parameters=results[0]["parameters"],
        seconds=Figure.of([result["seconds"] for result in results]),
        images_per_s=Figure.of([result["images_per_s"] for result in results]),
    )
