"""The experiments as a study: which parts they need, and their figures so far as one page."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from kd_ray.datasets import open_dataset
from kd_ray.errors import KdRayError
from kd_ray.files import to_path
from kd_ray.pipeline import Run, Where, open_recipe
from kd_ray.report.html import Section
from kd_ray.report.panels import Line, over_choice
from kd_ray.result import Result
from kd_ray.runs import Event, Task, Waiting, finished_result
from kd_ray.runs.variants import DISTILLED, LABELS
from kd_ray.studies.paper.answer import write_answer
from kd_ray.studies.paper.experiments import Experiment, Findings, experiments, picked_of
from kd_ray.studies.paper.measures import PartResults, corrected_students
from kd_ray.studies.paper.parts import Part, Scale, part_recipe, part_variants, parts, width_part
from kd_ray.studies.study import Answer, Study, StudyPart, check_overrides

CHECKPOINT_S = 5.0
"""Between two checkpoints of a training: epochs of few rows take milliseconds."""
LEAVING = ("seeds", "unit")
OURS = ("name", "teacher.path", "transfer_set.path", "student.model.hidden", "student.baselines")
"""Keys that tell the parts apart, and so are not the user's."""

NOTE = (
    "Test split; mean over seeds with the sample standard deviation. The paper: G. Hinton, "
    "O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, sections 3 to 6."
)


def reproduction(
    scale: Scale,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    only: Sequence[str] = (),
    **where: Unpack[Where],
) -> Study:
    """The study of some experiments; nothing is trained yet.

    Args:
        scale: of all of them.
        overrides: `key.path=value`, for every run.
        runs: folder of folders, or the URL of one in a store.
        only: names of experiments; all for none.
        where: see `pipeline.Where`.

    Raises:
        ConfigError: an override breaks a rule, or is of a key that tells the parts apart.
        DataError: the dataset cannot be read.
        UnknownNameError: there is no such experiment.
    """
    check_overrides(overrides, OURS)
    base = open_recipe(scale.base, [*scale.overrides, *overrides])
    every_part = parts(scale, open_dataset(base.data).class_names)
    every = experiments(scale, base, every_part)
    picked = picked_of(every, only)
    folder = to_path(runs).absolute() / scale.name
    folders = {part.name: str(folder / part.name) for part in every_part}

    def run_of(part: Part, wanted: Sequence[Experiment]) -> Run:
        names, place = _students(wanted, part), folder / part.name
        recipe = part_recipe(scale, part, names, overrides, folders)
        variants = part_variants(recipe, names)
        return Run(recipe, place, **where, variants=variants, checkpoint_s=CHECKPOINT_S)

    todo = [
        StudyPart(
            part.name,
            part.about,
            run_of(part, picked),
            stages,
            partial(_correct, part),
            tuple(e.name for e in picked if part.name in e.students),
        )
        for part in every_part
        if (stages := _stages(picked, every_part, part))
    ]
    whole = [(part, run_of(part, every)) for part in every_part]
    return Study(folder, todo, partial(_answer, folder, scale, picked, every, whole), LEAVING)


def _correct(part: Part, run: Run) -> Iterator[tuple[Task, Event]]:
    """Corrects the biases of a part's students, where that has not been done."""
    students = PartResults(list(run.results.values())).of(DISTILLED)
    kept = corrected_students(run.folder, students, part.corrected)
    if part.corrected and len(kept) < len(students):
        task = run.tasks()[-1]
        yield task, Waiting(f"{part.name}: correcting biases")
        corrected_students(run.folder, students, part.corrected, task.data)


def _answer(
    folder: Path,
    scale: Scale,
    picked: Sequence[Experiment],
    every: Sequence[Experiment],
    whole: Sequence[tuple[Part, Run]],
    unfinished: Mapping[str, str],
) -> Answer:
    """Writes what is finished by now, whichever call made it and whatever this one is asked for."""
    results = {part.name: part_results(part, run) for part, run in whole}
    findings = {e.name: found for e in every if (found := e.findings(results)) is not None}
    shown = [e for e in every if e in picked or e.name in findings]
    sections = {e.name: _section(scale, e, findings.get(e.name)) for e in shown}
    about = [NOTE, scale.about] if scale.about else [NOTE]
    return write_answer(folder, about, shown, picked, findings, sections, unfinished)


def part_results(part: Part, run: Run) -> PartResults:
    """What of a part is there, by whichever call it was made."""
    there: list[Result] = []
    lacking: set[str] = set()
    for task in run.tasks():
        try:
            result = finished_result(task)
        except KdRayError:  # of another recipe, or not readable; performing it says why
            result = None
        if result is None:
            lacking.add(task.variant)
        else:
            there.append(result)
    students = PartResults(there).of(DISTILLED)
    corrected = corrected_students(run.folder, students, part.corrected)
    if part.corrected and len(corrected) < len(students):
        lacking.add(DISTILLED)
    return PartResults(there, frozenset(lacking), corrected)


def _students(picked: Sequence[Experiment], part: Part) -> list[str]:
    """The students of a part that some experiment needs, each once, distilled ones last."""
    wanted = [name for e in picked for name in e.students.get(part.name, ())]
    return sorted(dict.fromkeys(wanted), key=lambda name: name == DISTILLED)


def _stages(picked: Sequence[Experiment], every: Sequence[Part], part: Part) -> tuple[str, ...]:
    """What of a part is needed: by its own students, and by those of other parts."""
    begun = [other for other in every if _students(picked, other)]
    label = ("label",) if any(other.set_of == part.name for other in begun) else ()
    teach = ("teach",) if any(other.teacher_of == part.name for other in begun) else ()
    if _students(picked, part):
        return ("distill",) if part.set_of is not None else ("teach", "label", "distill")
    return ("teach", *label) if label else teach


def _section(scale: Scale, experiment: Experiment, found: Findings | None) -> Section:
    if found is None:
        return Section(experiment.title, [experiment.about, "Unfinished."])
    is_warm = any(line.temperature for line in experiment.lines)
    plot = _over_temperature(scale, found) if is_warm else ""
    return Section(
        experiment.title, [experiment.about], plot, [line.cells(figure) for line, figure in found]
    )


def _over_temperature(scale: Scale, findings: Findings) -> str:
    """Errors over T, a panel for each width: their errors have no common scale."""
    panels = {}
    for width in scale.widths:
        mine = [(line, figure) for line, figure in findings if line.part == width_part(width)]
        warm = [(line.temperature, figure) for line, figure in mine if line.temperature]
        levels = [
            Line("on labels", LABELS, [figure]) for line, figure in mine if line.variant == LABELS
        ]
        curve = Line("distilled", DISTILLED, [figure for _, figure in warm], [t for t, _ in warm])
        panels[f"2 x {width} units"] = [*levels, curve]
    title = "Test errors over temperature"
    return over_choice(title, panels, choice="temperature T", figure="test errors")
