"""Figures of a run: one row for each kind of model, mean and spread over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from kd_ray.report.html import rendered
from kd_ray.result import STUDENT, TEACHER, TRANSFER_SET, Result
from kd_ray.specialists import gain_kept
from kd_ray.units import bytes_shown, count_shown

MODEL_NAMES = {
    "teacher": "teacher",
    "ensemble": "ensemble of teachers",
    "labels": "student on labels",
    "smoothing": "student, smoothing",
    "softened-labels": "student, labels at T",
    "online": "student, teacher at every step",
    "distilled": "student distilled",
    "specialized": "student of specialists",
}
"""Name of a `Row` -> what a person calls it."""

WORDS = ("word_error_rate", "word_errors")
"""Figures of whole recordings, where the rows are frames of them."""


@dataclass(frozen=True)
class Figure:
    """A figure over seeds: one value for each; the spread is their sample standard deviation."""

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

    def shown(self, digits: int, scale: float = 1.0) -> str:
        """Mean and spread as text, multiplied by `scale` (100 for percent).

        >>> Figure.of([70.0, 74.0]).shown(1)
        '72.0 ± 2.8'
        >>> Figure.of([0.9217]).shown(2, scale=100)
        '92.17'
        """
        text = f"{scale * self.mean:,.{digits}f}"
        return text if self.spread is None else f"{text} ± {scale * self.spread:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A kind of model: the teacher, or one variant of the student; costs are those of one model.

    Attributes:
        name: "teacher", "ensemble", "distilled" or a baseline.
        metrics: figures on the test split, by the names of `metrics.summarize`.
        parameters: 0 of a teacher of whom there is nothing but logits; its seconds are 0, too.
        packed_bytes: with weights at their bits; None where it was not counted.
        bit_operations: for one image; None where they were not counted.
    """

    name: str
    metrics: dict[str, Figure]
    parameters: int
    seconds: Figure
    packed_bytes: int | None = None
    bit_operations: int | None = None

    def cells(self, *, costs: bool = False) -> dict[str, str]:
        """Heading -> text, in the order of the closing table; a figure that is not there is "-".

        Args:
            costs: with packed size and bit operations.
        """

        def shown(metric: str, digits: int = 2, scale: float = 100) -> str:
            figure = self.metrics.get(metric)
            return figure.shown(digits, scale) if figure else "-"

        seeds, costs_shown = len(self.seconds.values), {}
        if costs:
            size, operations = self.packed_bytes, self.bit_operations
            costs_shown = {
                "size": "-" if size is None else bytes_shown(size),
                "bit operations": "-" if operations is None else count_shown(operations),
            }
        return {
            "model": MODEL_NAMES.get(self.name, self.name),
            "seeds": str(seeds),
            "accuracy %": shown("accuracy"),
            "errors": shown("errors", 1 if seeds > 1 else 0, 1),
            **({"words wrong %": shown(WORDS[0])} if WORDS[0] in self.metrics else {}),
            "agreement %": shown("agreement"),
            "calibration error %": shown("calibration_error"),
            "parameters": f"{self.parameters:,}" if self.parameters else "-",
            **costs_shown,
            "seconds": self.seconds.shown(1) if self.parameters else "-",
        }


@dataclass(frozen=True)
class Summary:
    """What a run comes to.

    Attributes:
        folder: of the run.
        rows: teacher first, then the ensemble if there are several, baselines, and the distilled
            student.
        transfer_set: rows, bytes, bytes_per_row and seconds of the labelling, or None.
        results: the records of everything that is finished.
    """

    folder: Path
    rows: list[Row]
    transfer_set: dict[str, float] | None = None
    results: list[Result] = field(default_factory=list, repr=False)

    def cells(self) -> list[dict[str, str]]:
        """Of every row; size and bit operations are among them where a model has few bits."""
        costs = any((row.packed_bytes or math.inf) < 4 * row.parameters for row in self.rows)
        return [row.cells(costs=costs) for row in self.rows]

    def row(self, name: str) -> Row | None:
        """The row of that name, or None."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def gap_closed(self) -> float | None:
        """Share of the errors between hard labels and teacher that distilling removed.

        (labels - distilled) / (labels - teacher), in mean test errors, where several teachers are
        one, the ensemble; None where one is missing, or where the teacher is no better than the
        student on labels.
        """
        teacher = "ensemble" if self.row("ensemble") else "teacher"
        errors = self._means("errors", "labels", teacher, "distilled")
        return gain_kept(*(-count for count in errors)) if errors else None

    @property
    def gain_kept(self) -> float | None:
        """Share of the ensemble's gain over one member that the distilled student keeps.

        (distilled - member) / (ensemble - member), in mean test accuracies; None where there is
        one teacher, or where the ensemble is no better than its members.
        """
        accuracies = self._means("accuracy", "teacher", "ensemble", "distilled")
        return gain_kept(*accuracies) if accuracies else None

    @property
    def origin(self) -> str | None:
        """Where the transfer set's logits came from, if nothing here made them."""
        imported = (result.details.get("imported") for result in self.results)
        return next((about["origin"] for about in imported if about), None)

    def _means(self, metric: str, *names: str) -> list[float]:
        """A figure of several rows; none at all if one of them is missing."""
        figures = [row.metrics.get(metric) for name in names if (row := self.row(name))]
        means = [figure.mean for figure in figures if figure]
        return means if len(means) == len(names) else []

    @property
    def rebuilt(self) -> str:
        """The clause of how near soft targets of compact logits come; empty of dense ones."""
        costs = [cost for result in self.results for cost in result.details.get("cost", [])]
        at = [f"{cost['mean']:.1e} at T = {cost['temperature']:g}" for cost in costs]
        return f"; rebuilt with a mean KL in nats of {', '.join(at)}" if at else ""

    def sentences(self) -> list[str]:
        """What the table does not say: the gap closed, and the transfer set's cost."""
        lines = [self.about_gap(), self.about_gain()]
        if cost := self.transfer_set:
            size = f"{bytes_shown(cost['bytes'])} ({cost['bytes_per_row']:.1f} bytes per row)"
            made = self.origin or f"labelled in {cost['seconds']:,.1f} s"
            lines.append(f"Transfer set: {cost['rows']:,.0f} rows, {size}, {made}{self.rebuilt}.")
        return [line for line in [*lines, about_cost(self.results)] if line]

    def about_gap(self) -> str:
        """One sentence; empty where a row is missing, or where there is no gap (see `advice`)."""
        gap = self.gap_closed
        if gap is not None:
            rest = " of the errors between student on labels and teacher"
            if gap < 0:
                rest = "; the distilled student makes more errors than the student on labels"
            return f"Gap closed: {100 * gap:.0f} %{rest}."
        return ""

    def about_gain(self) -> str:
        """One sentence; empty where there is no ensemble, or it gains nothing."""
        kept = self.gain_kept
        if kept is None:
            return ""
        if kept <= 0:
            return "The distilled student is no better than one member of the ensemble."
        share = f"{100 * kept:.0f} %"
        return f"The distilled student keeps {share} of what the ensemble gains over one member."

    def _repr_html_(self) -> str:
        """The closing table, for notebooks."""
        return rendered("table", rows=self.cells(), lines=self.sentences())


def summarize_results(folder: Path, results: Sequence[Result]) -> Summary:
    """Groups the results of a run, the records of everything that is finished, by kind of model."""
    groups: dict[str, list[Result]] = {}
    transfer_set = None
    imported: list[dict[str, float]] = []
    for result in results:
        if result.kind == TRANSFER_SET:
            transfer_set = {**result.metrics, "seconds": result.seconds}
            imported = result.details.get("imported", {}).get("teachers", [])
        if result.kind in (TEACHER, STUDENT):
            groups.setdefault(result.variant or result.kind, []).append(result)
    # Teacher, baselines, the distilled student, and that of the specialists.
    places = {"teacher": 0, "distilled": 2, "specialized": 3}
    order = sorted(groups, key=lambda name: places.get(name, 1))
    rows = [_row(name, groups[name]) for name in order]
    if imported and all({"accuracy", "errors"} <= figures.keys() for figures in imported):
        metrics = {
            key: Figure.of([figures[key] for figures in imported])
            for key in imported[0]
            if all(key in figures for figures in imported)
        }
        rows.insert(0, Row("teacher", metrics, 0, Figure.of([0.0] * len(imported))))
    if ensemble := _ensemble(results, len(imported)):
        rows.insert(1, ensemble)
    return Summary(folder, rows, transfer_set, list(results))


def _ensemble(results: Sequence[Result], imported: int) -> Row | None:
    """The teachers as one, as the students measured them on the test split, if there are several.

    Its parameters and seconds are those of all its members, of whom so many were imported.
    """
    members = [result for result in results if result.kind == TEACHER]
    students = [result.metrics for result in results if result.kind == STUDENT]
    seen = next((metrics for metrics in students if "teacher_accuracy" in metrics), None)
    if len(members) + imported < 2 or seen is None:
        return None
    return Row(
        name="ensemble",
        metrics={
            name: Figure.of([seen[f"teacher_{name}"]])
            for name in ("accuracy", "errors", *WORDS)
            if f"teacher_{name}" in seen
        },
        parameters=sum(member.parameters for member in members),
        seconds=Figure.of([sum(member.seconds for member in members)]),
    )


def _row(name: str, results: list[Result]) -> Row:
    return Row(
        name=name,
        metrics={
            key: Figure.of([result.metrics[key] for result in results])
            for key in results[0].metrics
            if all(key in result.metrics for result in results)
        },
        parameters=results[0].parameters,
        seconds=Figure.of([result.seconds for result in results]),
        packed_bytes=results[0].packed_bytes,
        bit_operations=results[0].bit_operations,
    )


def about_cost(results: Sequence[Result]) -> str:
    """One sentence on what a transfer set cost and saves, in seconds that were measured.

    Empty where a stage is missing or was not measured.
    """
    teachers, labels, students = (
        [result for result in results if result.kind == kind]
        for kind in (TEACHER, TRANSFER_SET, STUDENT)
    )
    if not teachers or not labels or not students:
        return ""
    rate, rows = labels[0].images_per_s, labels[0].metrics.get("train_rows")
    if not rate or not rows:  # a labelling that was only finished, or by an earlier version
        return ""
    # The images that a student sees, at the rate at which the teachers labelled.
    saved_s = mean(result.epochs for result in students) * rows / rate
    count = max(1, math.ceil(labels[0].seconds / saved_s))
    return (
        f"Cost: teaching {sum(result.seconds for result in teachers):,.1f} s and labelling "
        f"{labels[0].seconds:,.1f} s, once; a student {mean(r.seconds for r in students):,.1f} s, "
        f"and {saved_s:,.1f} s more if it ran its teachers at every step: the transfer set has "
        f"paid for itself with {'the first student' if count == 1 else f'{count:,} students'}."
    )
