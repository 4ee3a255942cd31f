"""The four exercises side by side: one row for each exercise and temperature, and a plot over T."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_ray.files import committed_file
from kd_ray.report.html import Section, study_page, write_page
from kd_ray.report.panels import Line, Panel, over_choice
from kd_ray.report.summary import Row, Summary
from kd_ray.runs.variants import EXERCISES, exercise_of

TABLE, PAGE = "exercises.csv", "exercises.html"
FIGURES = ("accuracy", "errors", "agreement")
COLOURS = {"q1": "labels", "q2": "smoothing", "q3": "distilled", "q4": "softened-labels"}
NOTE = (
    "Mean over seeds, with the sample standard deviation; dashed, the teacher, and Q1: it has no "
    "soft term, so it is the same at every T."
)


@dataclass(frozen=True)
class ExerciseRow:
    """Students of one exercise at one temperature.

    Attributes:
        exercise: "q1" to "q4".
        temperature: T; None where there is no soft term.
        figures: over seeds, on the test split.
    """

    exercise: str
    temperature: float | None
    figures: Row

    def cells(self) -> dict[str, str]:
        """Heading -> text, in the order of the table."""
        shown = self.figures.cells()
        kept = ("accuracy %", "errors", "agreement %", "seeds")
        return {
            "exercise": f"{self.exercise.upper()} {EXERCISES[self.exercise]}",
            "T": "-" if self.temperature is None else f"{self.temperature:g}",
            **{heading: shown[heading] for heading in kept},
        }


def exercise_rows(summary: Summary) -> list[ExerciseRow]:
    """The exercises of a run, in their order and then by temperature."""
    found = []
    for row in summary.rows:
        exercise = exercise_of(row.name)
        if exercise is not None:
            found.append(ExerciseRow(*exercise, row))
    return sorted(found, key=lambda row: (row.exercise, row.temperature or 0))


def write_exercises(folder: Path, summary: Summary) -> list[Path]:
    """Writes `exercises.csv`, and `exercises.html` with the plot, and returns their paths.

    Args:
        folder: of the run.
        summary: with at least one exercise.
    """
    rows = exercise_rows(summary)
    with (
        committed_file(folder / TABLE) as draft,
        draft.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        headings = [f"{figure}_{what}" for figure in FIGURES for what in ("mean", "spread")]
        writer.writerow(["exercise", "temperature", "seeds", *headings])
        for row in rows:
            values: list[object] = []
            for figure in FIGURES:
                metric = row.figures.metrics[figure]
                values += [metric.mean, metric.spread]
            seeds = len(row.figures.seconds.values)
            writer.writerow([row.exercise, row.temperature, seeds, *values])
    return [folder / TABLE, write_page(folder / PAGE, exercises_page(folder.name, summary))]


def exercises_page(name: str, summary: Summary) -> str:
    """The table and the plot as one HTML file that needs nothing else."""
    rows = exercise_rows(summary)
    lines = [_line(exercise, rows) for exercise in dict.fromkeys(row.exercise for row in rows)]
    if teacher := summary.row("teacher"):
        lines.append(Line("teacher", "teacher", [teacher.metrics["accuracy"]]))
    title = "Test accuracy over T"
    panel = Panel(title, lines)
    plot = over_choice(title, [panel], choice="temperature T", figure="accuracy", percent=True)
    section = Section("", [NOTE], plot, [row.cells() for row in rows])
    return study_page(f"{name}: the four exercises", [], [], [section])


def _line(exercise: str, rows: Sequence[ExerciseRow]) -> Line:
    """An exercise over its temperatures; the one without a soft term has none, so it is a level."""
    mine = [row for row in rows if row.exercise == exercise]
    return Line(
        name=f"{exercise.upper()} {EXERCISES[exercise]}",
        kind=COLOURS[exercise],
        figures=[row.figures.metrics["accuracy"] for row in mine],
        places=[row.temperature for row in mine if row.temperature is not None],
    )
