"""The four exercises side by side: one row for each exercise and temperature, and a plot over T."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_ray.files import committed_file
from kd_ray.report.markup import document, element, paragraph, table
from kd_ray.report.plots import Series, over_temperature
from kd_ray.report.style import CSS
from kd_ray.report.summary import Row, Summary
from kd_ray.runs.variants import EXERCISES, exercise_of

TABLE, PAGE = "exercises.csv", "exercises.html"
FIGURES = ("accuracy", "errors", "agreement")


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
    with committed_file(folder / PAGE) as draft:
        draft.write_text(exercises_page(folder.name, summary), encoding="utf-8")
    return [folder / TABLE, folder / PAGE]


def exercises_page(name: str, summary: Summary) -> str:
    """The table and the plot as one HTML file that needs nothing else."""
    rows = exercise_rows(summary)
    cells = [row.cells() for row in rows]
    teacher = summary.row("teacher")
    accuracies = teacher.metrics["accuracy"].values if teacher else ()
    plot = over_temperature("Test accuracy over T", _series(rows), accuracies)
    body = "\n".join(
        [
            f"<header>\n{element('h1', f'{name}: the four exercises')}\n</header>",
            f'<section><figure class="wide">{plot}</figure>',
            paragraph(
                "Mean over seeds, with the sample standard deviation; dashed, the teacher. Q1 has "
                "no soft term, so it is the same at every T."
            ),
            f'<div class="wide">{table(list(cells[0]), [list(row.values()) for row in cells])}'
            "</div></section>",
        ]
    )
    return document(f"{name}: exercises", CSS, body)


def _series(rows: Sequence[ExerciseRow]) -> list[Series]:
    found = []
    for exercise, about in EXERCISES.items():
        mine = [row for row in rows if row.exercise == exercise]
        if mine:
            figures = [row.figures.metrics["accuracy"] for row in mine]
            found.append(
                Series(
                    name=f"{exercise.upper()} {about}",
                    kind={"q1": "labels", "q2": "smoothing", "q3": "distilled"}.get(
                        exercise, "softened-labels"
                    ),
                    temperatures=[row.temperature for row in mine],
                    means=[figure.mean for figure in figures],
                    spreads=[figure.spread or 0.0 for figure in figures],
                )
            )
    return found
