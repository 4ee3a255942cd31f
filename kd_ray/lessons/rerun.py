"""The lessons measured anew: a study of their runs, which goes on where it was."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from kd_ray.catalog import pick
from kd_ray.files import committed_file, to_path
from kd_ray.lessons.figures import measured, plot, write_figures
from kd_ray.lessons.lesson import Lesson, LessonRun
from kd_ray.lessons.plan import BASE, LESSONS
from kd_ray.pipeline import Run, Where, open_recipe
from kd_ray.report.html import Section
from kd_ray.report.picture import stand_alone
from kd_ray.runs.variants import OF_RECIPES, Variant
from kd_ray.studies.study import Answer, Study, StudyPart, check_overrides

FOLDER = "lessons"
OURS = ("name", "teacher.path", "transfer_set.path")
CHECKPOINT_S = 5.0
"""Between two checkpoints of a training: epochs of few rows take milliseconds."""


def lessons_study(
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    to: str | Path | None = None,
    **where: Unpack[Where],
) -> Study:
    """The study of some lessons; nothing is trained yet.

    Args:
        only: their names; all for none.
        overrides: `key.path=value`, for every run.
        runs: folder of folders, or the URL of one in a store.
        to: where tables and plots go; the folder of the study for none.
        where: see `pipeline.Where`.

    Raises:
        ConfigError: an override breaks a rule, or is of a key that tells the runs apart.
        UnknownNameError: there is no such lesson.
    """
    check_overrides(overrides, OURS)
    lessons = {name: pick("lesson", LESSONS, name) for name in only or LESSONS}
    folder = to_path(runs).absolute() / FOLDER
    wanted = {run.name: run for lesson in lessons.values() for run in lesson.runs}
    parts = {name: _part(folder, run, lessons, overrides, where) for name, run in wanted.items()}
    to = folder if to is None else to_path(to)
    return Study(folder, list(parts.values()), partial(_answer, to, lessons, parts))


def _part(
    folder: Path,
    run: LessonRun,
    lessons: Mapping[str, Lesson],
    overrides: Sequence[str],
    where: Where,
) -> StudyPart:
    users = {name: lesson for name, lesson in lessons.items() if run in lesson.runs}
    sets = [f"name={run.name}", "student.baselines=[]", *run.overrides, *overrides]
    if run.teacher_of is not None:
        sets.append(f'teacher.path="{folder / run.teacher_of}"')
    if run.set_of is not None:
        sets.append(f'transfer_set.path="{folder / run.set_of / "transfer_set"}"')
    recipe = open_recipe(BASE, sets)
    students = {
        name: own for lesson in users.values() for name, own in lesson.students(run.name).items()
    }
    variants = [
        Variant(name, open_recipe(BASE, [*sets, *own]))
        for name, own in students.items()
        if name not in OF_RECIPES
    ]
    work = Run(recipe, folder / run.name, **where, variants=variants, checkpoint_s=CHECKPOINT_S)
    return StudyPart(run.name, run.about, work, run.stages, questions=tuple(users))


def _answer(
    to: Path,
    lessons: Mapping[str, Lesson],
    parts: Mapping[str, StudyPart],
    unfinished: Mapping[str, str],
) -> Answer:
    """Writes table and plot of each lesson whose runs are finished."""
    sections, files = [], []
    for name, lesson in lessons.items():
        if any(run.name in unfinished for run in lesson.runs):
            continue
        there = {run.name: list(parts[run.name].run.results.values()) for run in lesson.runs}
        lines = measured(lesson, there)
        files.append(write_figures(to / f"{name}.csv", lines))
        files.append(to / f"{name}.svg")
        with committed_file(files[-1]) as draft:
            draft.write_text(stand_alone(plot(lesson, lines)), encoding="utf-8")
        for panel in dict.fromkeys(line.panel for line in lines):
            rows = [
                {
                    "": line.line,
                    lesson.choice: line.place or "-",
                    "figure": line.mean + (f" ± {line.spread}" if line.spread else ""),
                }
                for line in lines
                if line.panel == panel
            ]
            sections.append(Section(f"{lesson.title}: {panel}", rows=rows))
    return Answer(sections, files)
