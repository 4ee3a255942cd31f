"""A study of one run folder: students that differ in one choice, as a table, a plot and a page."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from kd_ray.config import Recipe
from kd_ray.files import committed_file
from kd_ray.pipeline import Run, Where
from kd_ray.report.html import Section, rendered, write_page
from kd_ray.report.panels import Line, over_choice
from kd_ray.report.summary import Row, Summary
from kd_ray.runs.variants import Variant
from kd_ray.studies.study import Answer, Study, StudyPart

FIGURES = ("accuracy", "errors", "agreement")
STAGES = ("teach", "label", "distill")


@dataclass(frozen=True)
class TableLine:
    """Students that differ from those of other lines in one choice.

    Attributes:
        choice: column -> value, what was chosen.
        cells: heading -> text, as a person reads it.
        figures: of the students, on the test split.
        curve: name and colour of the plot's line that they belong to.
        place: where they stand on it; None of students that the plot's choice does not move.
        costs: column -> value, what the choice costs.
    """

    choice: Mapping[str, object]
    cells: Mapping[str, str]
    figures: Row
    curve: tuple[str, str]
    place: float | None
    costs: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What is compared in a run folder, and in which words.

    Attributes:
        name: of the table and the page.
        page_title: what is compared, above the page; the next two above table and plot.
        axis: name of the choice under the plot.
        note: what a reader of the page should know.
        students: of a recipe and the values of the choice, each under what was chosen.
        lines: the table of these students in a run so far.
        teacher: first cells of a line for the teacher on a terminal; none for no such line.
        leaving: headings of columns that a narrow terminal goes without, the least missed first.
    """

    name: str
    page_title: str
    table_title: str
    plot_title: str
    axis: str
    note: str
    students: Callable[[Recipe, Sequence[Any]], Mapping[Any, Variant]]
    lines: Callable[[Mapping[Any, Variant], Summary], list[TableLine]]
    teacher: Mapping[str, str] = field(default_factory=dict)
    leaving: Sequence[str] = ()

    def study(
        self, recipe: Recipe, choices: Sequence[float], runs: Path, **where: Unpack[Where]
    ) -> Study:
        """The study of these students in the run folder of a recipe, below an absolute `runs`.

        Raises:
            ConfigError: values that students cannot be compared over.
        """
        students = self.students(recipe, choices)
        run = Run(recipe, runs / recipe.name, **where, variants=list(students.values()))
        part = StudyPart(recipe.name, self.page_title, run, STAGES)
        return Study(run.folder, [part], partial(self._answer, part, students), self.leaving)

    def _answer(
        self, part: StudyPart, students: Mapping[Any, Variant], unfinished: Mapping[str, str]
    ) -> Answer:
        folder, summary = part.run.folder, part.summary
        lines = self.lines(students, summary)
        rows = [line.cells for line in lines]
        section = Section("", [self.note], self._plot(summary, lines), rows)
        title = f"{folder.name}: {self.page_title}"
        page = rendered("study", title=title, about=[], unfinished=[], sections=[section])
        files = [
            write_table(folder / f"{self.name}.csv", lines),
            write_page(folder / f"{self.name}.html", page),
        ]
        if self.teacher and (row := summary.row("teacher")):
            cells = row.cells()
            rows.insert(0, {**{name: cells.get(name, "-") for name in rows[0]}, **self.teacher})
        return Answer([Section(f"{folder.name}: {self.table_title}", rows=rows)], files)

    def _plot(self, summary: Summary, lines: Sequence[TableLine]) -> str:
        curves = []
        for name, kind in dict.fromkeys(line.curve for line in lines):
            mine = [line for line in lines if line.curve == (name, kind)]
            places = [line.place for line in mine if line.place is not None]
            accuracies = [line.figures.metrics["accuracy"] for line in mine]
            curves.append(Line(name, kind, accuracies, places))
        if teacher := summary.row("teacher"):
            curves.append(Line("teacher", "teacher", [teacher.metrics["accuracy"]]))
        title, panels = self.plot_title, {self.plot_title: curves}
        return over_choice(title, panels, choice=self.axis, figure="accuracy", percent=True)


def write_table(path: Path, lines: Sequence[TableLine]) -> Path:
    """Writes lines as CSV, with mean and spread of `FIGURES`, and returns the path.

    Raises:
        StorageError: it cannot be written.
    """
    headings = [f"{figure}_{what}" for figure in FIGURES for what in ("mean", "spread")]
    with committed_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*lines[0].choice, "seeds", *headings, *lines[0].costs])
        for line in lines:
            figures = [line.figures.metrics[name] for name in FIGURES]
            values = [value for figure in figures for value in (figure.mean, figure.spread)]
            seeds = len(line.figures.seconds.values)
            writer.writerow([*line.choice.values(), seeds, *values, *line.costs.values()])
    return path
