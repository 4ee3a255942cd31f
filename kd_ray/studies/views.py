"""Accuracy over stored views, beside a teacher in every step: what storing logits costs.

One transfer set has the most views; students are shown the first V of them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import ConfigError
from kd_ray.pipeline import Run
from kd_ray.report.html import Section, study_page, write_page
from kd_ray.report.panels import Line, Panel, over_choice
from kd_ray.report.summary import Row, Summary
from kd_ray.result import TRANSFER_SET, Result
from kd_ray.runs.variants import ONLINE, Variant, derived, variant
from kd_ray.studies.study import Answer, Study, StudyPart
from kd_ray.studies.table import TableLine, write_table
from kd_ray.units import bytes_shown

TABLE, PAGE = "views.csv", "views.html"
STAGES = ("teach", "label", "distill")
LEAVING = ("seeds", "agreement %", "student s")
NOTE = (
    "Mean over seeds, with the sample standard deviation. Every student takes the same number of "
    "steps and sees the rows in the same order; with V views, epoch e shows view (e - 1) mod V. "
    "The teacher that is run in every step labels a view of its own for each epoch. Bytes and "
    "teacher seconds of V views are the measured ones of the largest set, by rows; those of the "
    "teacher in every step are what its student took longer than those of stored logits, for each "
    "student."
)


def view_students(recipe: Recipe, numbers: Sequence[int]) -> dict[int | None, Variant]:
    """Students of the first so many stored views, and one with the teacher run in every step.

    Returns:
        V -> student; None for the teacher in every step.

    Raises:
        ConfigError: see `check_numbers`.
    """
    check_numbers(numbers)
    shown: dict[int | None, Variant] = {
        v: Variant(f"views-{v}", derived(recipe, student={"views": v})) for v in numbers
    }
    return {**shown, None: variant(recipe, ONLINE)}


def check_numbers(numbers: Sequence[int]) -> None:
    """Refuses numbers of views that students cannot be compared over.

    Raises:
        ConfigError: there is none, one comes twice, or one is below 1.
    """
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise ConfigError(
            f"views: must be at least one number from 1 on, each once, but got {list(numbers)}"
        )


def views_study(recipe: Recipe, numbers: Sequence[int], runs: Path, **where: Any) -> Study:
    """Students of so many views as a study of one run.

    Args:
        recipe: whose transfer set has at least as many views.
        numbers: of views.
        runs: absolute folder of run folders.
        where: local, address and verbose, see `pipeline.Run`.

    Raises:
        ConfigError: see `view_students`.
    """
    students = view_students(recipe, numbers)
    run = Run(recipe, runs / recipe.name, **where, variants=list(students.values()))
    part = StudyPart(recipe.name, "students of stored views", run, STAGES)
    return Study(run.folder, [part], partial(_answer, part, students), LEAVING)


def _answer(
    part: StudyPart, students: Mapping[int | None, Variant], unfinished: Mapping[str, str]
) -> Answer:
    folder, summary = part.run.folder, part.summary
    lines = view_lines(summary, students)
    rows = [line.cells for line in lines]
    title = f"{folder.name}: accuracy over stored views"
    page = study_page(title, [], [], [Section("", [NOTE], _plot(summary, lines), rows)])
    files = [write_table(folder / TABLE, lines), write_page(folder / PAGE, page)]
    return Answer([Section(f"{folder.name}: stored views, test split", rows=rows)], files)


def view_lines(summary: Summary, students: Mapping[int | None, Variant]) -> list[TableLine]:
    """The students of a run by their views, ascending; the one without stored logits last."""
    rows = {v: summary.row(student.name) for v, student in students.items()}
    stored = sorted((v, row) for v, row in rows.items() if v is not None and row is not None)
    lines = [_line(v, row, *set_cost(summary.results, v)) for v, row in stored]
    online = rows.get(None)
    if online is not None:
        seconds = [row.seconds.mean for _, row in stored]
        longer = online.seconds.mean - sum(seconds) / len(seconds) if seconds else None
        lines.append(_line(None, online, None, longer))
    return lines


def _line(
    views: int | None, figures: Row, set_bytes: float | None, teacher_s: float | None
) -> TableLine:
    """A line of the table.

    Args:
        views: V; None where the teacher is run in every step.
        figures: over seeds, on the test split.
        set_bytes: size of a transfer set of V views; None where there is none, or it was not made.
        teacher_s: seconds of the teacher, once for all students; where it is run in every step,
            for each student.
    """
    shown = figures.cells()
    seconds = "-" if teacher_s is None else f"{teacher_s:,.1f}"
    cells = {
        "views": "in every step" if views is None else str(views),
        **{heading: shown[heading] for heading in ("accuracy %", "errors", "agreement %")},
        "transfer set": "-" if set_bytes is None else bytes_shown(set_bytes),
        "teacher s": f"{seconds} each" if views is None else seconds,
        "student s": shown["seconds"],
        "seeds": shown["seeds"],
    }
    costs = {"set_bytes": set_bytes, "teacher_s": teacher_s, "student_s": figures.seconds.mean}
    return TableLine({"views": views or ONLINE}, cells, figures, costs)


def set_cost(results: Sequence[Result], views: int) -> tuple[float | None, float | None]:
    """Bytes and teacher seconds of a set with so many views, of the measured ones of a larger set.

    Rows are of one size and take the teacher one time each, so both are shares by rows. What an
    interrupted labelling took is reckoned from its pace.

    Args:
        results: of a run; the one of its labelling is looked for.
        views: V.
    """
    for result in results:
        metrics = result.metrics
        if result.kind == TRANSFER_SET and "train_rows" in metrics:
            stored = result.recipe["transfer_set"]["views"]
            held_out = metrics["rows"] - metrics["train_rows"] * stored
            rows = metrics["train_rows"] * views + held_out
            seconds = rows / result.images_per_s if result.images_per_s else None
            return metrics["bytes"] * rows / metrics["rows"], seconds
    return None, None


def _plot(summary: Summary, lines: Sequence[TableLine]) -> str:
    stored = [line for line in lines if isinstance(line.choice["views"], int)]
    curves = [
        Line(
            "stored logits",
            "distilled",
            [line.figures.metrics["accuracy"] for line in stored],
            [v for line in stored if isinstance(v := line.choice["views"], int)],
        )
    ]
    for name, kind, about in (
        (ONLINE, "labels", "teacher in every step"),
        ("teacher", "teacher", "teacher"),
    ):
        if row := summary.row(name):
            curves.append(Line(about, kind, [row.metrics["accuracy"]]))
    title = "Test accuracy over stored views"
    panels = [Panel(title, curves)]
    return over_choice(title, panels, choice="views V", figure="accuracy", percent=True)
