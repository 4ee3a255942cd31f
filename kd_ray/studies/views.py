"""Accuracy over stored views, beside a teacher that is run in every step: table, plot, costs."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.files import committed_file
from kd_ray.report.html import Section, study_page, write_page
from kd_ray.report.panels import Line, Panel, over_choice
from kd_ray.report.summary import Row, Summary
from kd_ray.runs.variants import ONLINE, views_of
from kd_ray.units import bytes_shown

TABLE, PAGE = "views.csv", "views.html"
FIGURES = ("accuracy", "errors", "agreement")
NOTE = (
    "Mean over seeds, with the sample standard deviation. Every student takes the same number of "
    "steps and sees the rows in the same order; with V views, epoch e shows view (e - 1) mod V. "
    "The teacher that is run in every step labels a view of its own for each epoch. Bytes and "
    "teacher seconds of V views are the measured ones of the largest set, by rows; those of the "
    "teacher in every step are what its student took longer than those of stored logits, for each "
    "student."
)


@dataclass(frozen=True)
class ViewsRow:
    """Students that were shown so many views.

    Attributes:
        views: V; None where the teacher is run in every step.
        figures: over seeds, on the test split.
        set_bytes: of a transfer set of V views; None where there is none, or it was not made here.
        teacher_s: seconds of the teacher, once for all students; where it is run in every step,
            for each student.
    """

    views: int | None
    figures: Row
    set_bytes: float | None
    teacher_s: float | None

    def cells(self) -> dict[str, str]:
        """Heading -> text, in the order of the table."""
        shown = self.figures.cells()
        seconds = "-" if self.teacher_s is None else f"{self.teacher_s:,.1f}"
        return {
            "views": "in every step" if self.views is None else str(self.views),
            **{heading: shown[heading] for heading in ("accuracy %", "errors", "agreement %")},
            "transfer set": "-" if self.set_bytes is None else bytes_shown(self.set_bytes),
            "teacher s": f"{seconds} each" if self.views is None else seconds,
            "student s": shown["seconds"],
            "seeds": shown["seeds"],
        }


def views_rows(summary: Summary) -> list[ViewsRow]:
    """The students of a run by their views, ascending; the one without stored logits last."""
    rows = {v: row for row in summary.rows if (v := views_of(row.name)) is not None}
    shown = sorted(rows.items())
    found = [ViewsRow(v, row, *set_cost(summary.results, v)) for v, row in shown]
    online = summary.row(ONLINE)
    if online is not None:
        stored = [row.seconds.mean for _, row in shown]
        longer = online.seconds.mean - sum(stored) / len(stored) if stored else None
        found.append(ViewsRow(None, online, None, longer))
    return found


def set_cost(results: Sequence[Mapping[str, Any]], views: int) -> tuple[float | None, float | None]:
    """Bytes and teacher seconds of a set with so many views, of the measured ones of a larger set.

    Rows are of one size and take the teacher one time each, so both are shares by rows. What an
    interrupted labelling took is reckoned from its pace.

    Args:
        results: of a run; the one of its labelling is looked for.
        views: V.
    """
    for result in results:
        metrics = result["metrics"]
        if result["stage"] == "label" and "train_rows" in metrics:
            stored = result["recipe"]["transfer_set"]["views"]
            held_out = metrics["rows"] - metrics["train_rows"] * stored
            rows = metrics["train_rows"] * views + held_out
            rate = result["images_per_s"]
            seconds = rows / rate if rate else None
            return metrics["bytes"] * rows / metrics["rows"], seconds
    return None, None


def write_views(folder: Path, summary: Summary) -> list[Path]:
    """Writes `views.csv`, and `views.html` with the plot, and returns their paths.

    Args:
        folder: of the run.
        summary: with at least one student of some views.
    """
    rows = views_rows(summary)
    with (
        committed_file(folder / TABLE) as draft,
        draft.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        headings = [f"{figure}_{what}" for figure in FIGURES for what in ("mean", "spread")]
        writer.writerow(["views", "seeds", *headings, "set_bytes", "teacher_s", "student_s"])
        for row in rows:
            values: list[object] = []
            for name in FIGURES:
                figure = row.figures.metrics[name]
                values += [figure.mean, figure.spread]
            seconds = row.figures.seconds
            costs = [row.set_bytes, row.teacher_s, seconds.mean]
            writer.writerow([row.views or ONLINE, len(seconds.values), *values, *costs])
    return [folder / TABLE, write_page(folder / PAGE, views_page(folder.name, summary))]


def views_page(name: str, summary: Summary) -> str:
    """The table and the plot as one HTML file that needs nothing else."""
    rows = views_rows(summary)
    stored = [row for row in rows if row.views is not None]
    figures = [row.figures.metrics["accuracy"] for row in stored]
    lines = [Line("stored logits", "distilled", figures, [row.views or 0 for row in stored])]
    for row, kind, about in (
        (summary.row(ONLINE), "labels", "teacher in every step"),
        (summary.row("teacher"), "teacher", "teacher"),
    ):
        if row is not None:
            lines.append(Line(about, kind, [row.metrics["accuracy"]]))
    title = "Test accuracy over stored views"
    panel = Panel(title, lines)
    plot = over_choice(title, [panel], choice="views V", figure="accuracy", percent=True)
    section = Section("", [NOTE], plot, [row.cells() for row in rows])
    return study_page(f"{name}: accuracy over stored views", [], [], [section])
