"""The measured figures of a lesson: a table as CSV, and the plot that is drawn from it alone."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from markupsafe import Markup

from kd_ray.files import committed_file
from kd_ray.lessons.lesson import Lesson
from kd_ray.report.panels import Line, over_choice
from kd_ray.report.summary import Figure
from kd_ray.result import Result

DIGITS = 4
"""Of a figure, of which no more is repeatable on another machine."""


@dataclass(frozen=True)
class Measured:
    """A line of the table; `place` is empty of a level, `spread` of a single value."""

    panel: str
    line: str
    colour: str
    place: str
    mean: str
    spread: str
    seeds: str


def measured(lesson: Lesson, results: Mapping[str, Sequence[Result]]) -> list[Measured]:
    """The table of a lesson whose runs are finished: run folder -> all its records."""
    lines = []
    for point in lesson.points:
        values = [
            float(point.measure(result))
            for run in point.runs
            for result in results[run]
            if result.kind == point.kind and result.variant == point.variant
        ]
        figure = Figure.of(values)
        lines.append(
            Measured(
                *(point.panel, point.line, point.colour),
                "" if point.place is None else f"{point.place:g}",
                f"{figure.mean:.{DIGITS}g}",
                "" if figure.spread is None else f"{figure.spread:.{DIGITS}g}",
                str(len(values)),
            )
        )
    return lines


def write_figures(path: Path, lines: Iterable[Measured]) -> Path:
    """Writes the table as CSV and returns its path.

    Raises:
        StorageError: it cannot be written.
    """
    with committed_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Measured))
        writer.writerows(map(astuple, lines))
    return path


def read_figures(path: Path) -> list[Measured]:
    """Reads what `write_figures` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Measured(**line) for line in csv.DictReader(file)]


def plot(lesson: Lesson, lines: Sequence[Measured]) -> Markup:
    """Panels side by side, drawn from the table alone, as an `<svg>` element of a page."""
    panels: dict[str, list[Line]] = {}
    for panel, name, colour in dict.fromkeys((m.panel, m.line, m.colour) for m in lines):
        mine = [m for m in lines if (m.panel, m.line) == (panel, name)]
        figures = [Figure(float(m.mean), float(m.spread) if m.spread else None, ()) for m in mine]
        places = [float(m.place) for m in mine if m.place]
        panels.setdefault(panel, []).append(Line(name, colour, figures, places))
    return over_choice(lesson.title, panels, choice=lesson.choice, figure=lesson.figure)
