"""The four exercises: one student on labels, soft targets, both, and a control, over temperatures.

They take the objective of Hinton et al. 2015, section 2, apart. A line of the table is an exercise
at a temperature, a line of the plot an exercise over all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe, SoftWeight
from kd_ray.errors import ConfigError
from kd_ray.pipeline import Run
from kd_ray.report.html import Section, study_page, write_page
from kd_ray.report.panels import Line, Panel, over_choice
from kd_ray.report.summary import Summary
from kd_ray.runs.variants import NO_SOFT_TERM, Variant, derived
from kd_ray.studies.study import Answer, Study, StudyPart
from kd_ray.studies.table import TableLine, write_table

TABLE, PAGE = "exercises.csv", "exercises.html"
STAGES = ("teach", "label", "distill")
T_SQUARED = SoftWeight(factor=1.0, times_temperature_squared=True)
EXERCISES: Mapping[str, str] = {
    "q1": "labels only",
    "q2": "soft targets only",
    "q3": "labels and soft targets",
    "q4": "labels, softened at T",
}
"""Exercise -> what its student learns from."""

COLOURS = {"q1": "labels", "q2": "smoothing", "q3": "distilled", "q4": "softened-labels"}
NOTE = (
    "Mean over seeds, with the sample standard deviation; dashed, the teacher. Q1 has no soft "
    "term, so it is the same at every T."
)


@dataclass(frozen=True)
class ExerciseStudent:
    """The student of an exercise at a temperature.

    Attributes:
        exercise: "q1" to "q4".
        temperature: T; None where there is no soft term.
        variant: its name and recipe.
    """

    exercise: str
    temperature: float | None
    variant: Variant


def exercise_students(recipe: Recipe, temperatures: Sequence[float]) -> list[ExerciseStudent]:
    """The four exercises, all but the first at every temperature.

    Raises:
        ConfigError: no temperature, one twice, or one that is not above 0.
    """
    check_temperatures(temperatures)
    on_labels = derived(recipe, objective={"hard_weight": 1.0, "soft_weight": NO_SOFT_TERM})
    return [
        ExerciseStudent("q1", None, Variant("q1", on_labels)),
        *(
            ExerciseStudent(q, t, Variant(f"{q}-T{t:g}", _derived(recipe, q, t)))
            for t in temperatures
            for q in ("q2", "q3", "q4")
        ),
    ]


def _derived(recipe: Recipe, exercise: str, temperature: float) -> Recipe:
    objective = {
        "hard_weight": 0.0 if exercise == "q2" else 1.0,
        "soft_weight": T_SQUARED,
        "soft_decay": 0.0,
        "targets": "labels" if exercise == "q4" else "teacher",
        "temperature": temperature,
    }
    return derived(recipe, objective=objective)


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Refuses temperatures that students cannot be compared over.

    Raises:
        ConfigError: there is none, one comes twice, or one is not above 0.
    """
    if not temperatures or len(set(temperatures)) < len(temperatures):
        raise ConfigError(
            f"temperatures: must be at least one, each once, but got {list(temperatures)}"
        )
    if not all(0 < temperature < float("inf") for temperature in temperatures):
        raise ConfigError(f"temperatures: must be above 0, but got {list(temperatures)}")


def exercises_study(
    recipe: Recipe, temperatures: Sequence[float], runs: Path, **where: Any
) -> Study:
    """The exercises of a recipe as a study of one run.

    Args:
        recipe: with the teacher that they share.
        temperatures: T of the soft terms.
        runs: absolute folder of run folders.
        where: local, address and verbose, see `pipeline.Run`.

    Raises:
        ConfigError: see `exercise_students`.
    """
    students = exercise_students(recipe, temperatures)
    run = Run(recipe, runs / recipe.name, **where, variants=[s.variant for s in students])
    part = StudyPart(recipe.name, "the four exercises", run, STAGES)
    return Study(run.folder, [part], partial(_answer, part, students))


def _answer(
    part: StudyPart, students: Sequence[ExerciseStudent], unfinished: Mapping[str, str]
) -> Answer:
    folder, summary = part.run.folder, part.summary
    lines = exercise_lines(summary, students)
    rows = [line.cells for line in lines]
    page = study_page(
        f"{folder.name}: the four exercises",
        [],
        [],
        [Section("", [NOTE], _plot(summary, lines), rows)],
    )
    files = [write_table(folder / TABLE, lines), write_page(folder / PAGE, page)]
    if teacher := summary.row("teacher"):
        shown = teacher.cells()
        first = {"exercise": "teacher", "T": "-"}
        rows = [first | {heading: shown[heading] for heading in list(rows[0])[2:]}, *rows]
    title = f"{folder.name}: the four exercises, test split"
    return Answer([Section(title, rows=rows)], files)


def exercise_lines(summary: Summary, students: Sequence[ExerciseStudent]) -> list[TableLine]:
    """The exercises of a run, in their order and then by temperature."""
    lines = []
    for student in sorted(students, key=lambda s: (s.exercise, s.temperature or 0)):
        figures = summary.row(student.variant.name)
        if figures is None:
            continue
        shown, t = figures.cells(), student.temperature
        kept = ("accuracy %", "errors", "agreement %", "seeds")
        cells = {
            "exercise": f"{student.exercise.upper()} {EXERCISES[student.exercise]}",
            "T": "-" if t is None else f"{t:g}",
            **{heading: shown[heading] for heading in kept},
        }
        choice = {"exercise": student.exercise, "temperature": t}
        lines.append(TableLine(choice, cells, figures))
    return lines


def _plot(summary: Summary, lines: Sequence[TableLine]) -> str:
    curves = []
    for exercise, about in EXERCISES.items():
        mine = [line for line in lines if line.choice["exercise"] == exercise]
        if mine:
            temperatures = [line.choice["temperature"] for line in mine]
            curves.append(
                Line(
                    name=f"{exercise.upper()} {about}",
                    kind=COLOURS[exercise],
                    figures=[line.figures.metrics["accuracy"] for line in mine],
                    places=[t for t in temperatures if isinstance(t, float)],
                )
            )
    if teacher := summary.row("teacher"):
        curves.append(Line("teacher", "teacher", [teacher.metrics["accuracy"]]))
    title = "Test accuracy over T"
    panels = [Panel(title, curves)]
    return over_choice(title, panels, choice="temperature T", figure="accuracy", percent=True)
