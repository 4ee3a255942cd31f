"""Running the experiments part by part: each an ordinary run, all of them resumed by the same call.

A part that fails does not end the others; it is named, and so are the experiments that miss it.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.datasets import open_dataset
from kd_ray.errors import ConfigError, KdRayError
from kd_ray.files import locked, to_path
from kd_ray.pipeline import Run, Stage, open_recipe
from kd_ray.runs import Event, Finished, Task, Waiting, found_result
from kd_ray.runs.variants import DISTILLED
from kd_ray.studies.paper.corrected import correct_students, kept_corrections
from kd_ray.studies.paper.experiments import (
    EXPERIMENTS,
    Experiment,
    Part,
    chosen,
    experiments,
    part_recipe,
    parts,
)
from kd_ray.studies.paper.measures import Finding, PartResults, findings
from kd_ray.studies.paper.page import write_findings
from kd_ray.studies.paper.scales import Scale

CHECKPOINT_S = 5.0
"""Between two checkpoints of a training: epochs of few rows take milliseconds."""
OURS = ("name", "teacher.path", "transfer_set.path", "student.model.hidden", "student.baselines")
"""Keys that tell the parts apart, and so are not the user's."""


@dataclass(frozen=True)
class Progress:
    """A part begins, or a task in it is done.

    Attributes:
        part: name of the part.
        about: what is in it.
        number: of the part, from 1.
        parts: in all.
        done: tasks of all parts that are finished.
        tasks: in all.
    """

    part: str
    about: str
    number: int
    parts: int
    done: int
    tasks: int


@dataclass(frozen=True)
class Failure:
    """A part could not be finished.

    Attributes:
        part: name of the part.
        experiments: names of those that miss it.
        reason: in a sentence.
    """

    part: str
    experiments: tuple[str, ...]
    reason: str


@dataclass
class Reproduction:
    """Experiments and the folder that their run folders lie in.

    Attributes:
        scale: how large.
        folder: absolute or in a store.
        experiments: to perform.
        others: that were not asked for; shown where they are finished.
        parts: all, with runs of all their students.
        todo: parts in order, with runs of the students that are needed, and their stages.
        finished: names of the parts that this call has made or found.
        failures: so far.
    """

    scale: Scale
    folder: Path
    experiments: list[Experiment]
    others: list[Experiment]
    parts: list[tuple[Part, Run]]
    todo: list[tuple[Part, Run, tuple[Stage, ...]]]
    finished: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)

    def events(self) -> Generator[tuple[str, Progress | Failure | tuple[Task, Event]]]:
        """Performs what is not done yet; yields (part, what happens).

        After each part the table and the page are written with what there is by then.

        Raises:
            StorageError: another process works in the folder, or a page cannot be written.
        """
        wanted = [run.tasks(stages) for _, run, stages in self.todo]
        done, tasks = 0, sum(map(len, wanted))
        with locked(self.folder), ExitStack() as stack:
            for number, (part, run, stages) in enumerate(self.todo, 1):
                begun = Progress(part.name, part.about, number, len(self.todo), done, tasks)
                yield part.name, begun
                try:
                    if not run.local and any(found_result(t) is None for t in run.tasks(stages)):
                        stack.enter_context(_one_ray(run))
                    with closing(run.events(stages)) as events:
                        for task, event in events:
                            done += isinstance(event, Finished)
                            yield part.name, (task, event)
                    students = PartResults(list(run.results.values())).of(DISTILLED)
                    kept = kept_corrections(run.folder, students, part.corrected)
                    if part.corrected and len(kept) < len(students):
                        task = run.tasks()[-1]
                        yield part.name, (task, Waiting(f"{part.name}: correcting biases"))
                        correct_students(run.folder, task.read_recipe(), students, part.corrected)
                    self.finished.add(part.name)
                except KdRayError as error:
                    failure = Failure(part.name, self._missing(part.name), str(error))
                    self.failures.append(failure)
                    yield part.name, failure
                self.write()

    def write(self) -> dict[str, list[Finding]]:
        """Writes `results.json` and `report.html` with what is finished, and returns it.

        What an earlier call has finished is among it, whatever this one was asked for.
        """
        results = {part.name: part_results(part, run) for part, run in self.parts}
        order = list(EXPERIMENTS)
        every = sorted([*self.experiments, *self.others], key=lambda e: order.index(e.name))
        found = findings(self.scale, every, results)
        shown = [e for e in every if e in self.experiments or e.name in found]
        missing = [part.name for part, _, _ in self.todo if part.name not in self.finished]
        write_findings(self.folder, self.scale, shown, found, missing, self.failures)
        return found

    def _missing(self, part: str) -> tuple[str, ...]:
        return tuple(e.name for e in self.experiments if part in e.students)


def reproduction(
    scale: Scale,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    only: Sequence[str] = (),
    local: bool = False,
    address: str | None = None,
    verbose: bool = False,
) -> Reproduction:
    """What there is to do for some experiments; nothing is trained yet.

    Args:
        scale: how large.
        overrides: `key.path=value`, for every run.
        runs: folder of folders, or the URL of one in a store.
        only: names of experiments; all for none.
        local: in this process, without Ray.
        address: HOST:PORT of a Ray cluster; None for this machine.
        verbose: let Ray's own log lines through.

    Raises:
        ConfigError: an override breaks a rule, or is of a key that tells the parts apart.
        DataError: the dataset cannot be read.
        UnknownNameError: there is no such experiment.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(key == ours or ours.startswith(f"{key}.") for ours in OURS):
            raise ConfigError(
                f"--set {override}: {key} tells the experiments' runs apart, so it cannot be set "
                "for all of them; leave it out"
            )
    base = open_recipe(scale.base, [*scale.overrides, *overrides])
    found = parts(scale, open_dataset(base.data).class_names)
    every = experiments(scale, base, found)
    picked = chosen(every, only)
    folder = to_path(runs).absolute() / scale.name
    folders = {part.name: str(folder / part.name) for part in found}

    def run_of(part: Part, variants: list[str]) -> Run:
        recipe = part_recipe(scale, part, variants, overrides, folders)
        return Run(recipe, folder / part.name, local, address, verbose, variants, CHECKPOINT_S)

    todo: list[tuple[Part, Run, tuple[Stage, ...]]] = []
    for part in found:
        variants = _variants(picked, part)
        stages = _stages(picked, found, part, variants)
        if stages:
            todo.append((part, run_of(part, variants), stages))
    others = [experiment for experiment in every if experiment not in picked]
    whole = [(part, run_of(part, _variants(every, part))) for part in found]
    return Reproduction(scale, folder, picked, others, whole, todo)


def part_results(part: Part, run: Run) -> PartResults:
    """What of a part is there, by whichever call it was made."""
    found: list[dict[str, Any]] = []
    lacking: set[str] = set()
    for task in run.tasks():
        try:
            result = found_result(task)
        except KdRayError:  # of another recipe, or not readable; whoever performs it is told why
            result = None
        if result is None:
            lacking.add(task.variant)
        else:
            found.append(result)
    students = PartResults(found).of(DISTILLED)
    corrected = kept_corrections(run.folder, students, part.corrected) if part.corrected else {}
    if part.corrected and len(corrected) < len(students):
        lacking.add(DISTILLED)
    return PartResults(found, frozenset(lacking), corrected)


def _variants(picked: Sequence[Experiment], part: Part) -> list[str]:
    """The students of a part that some experiment needs, each once, distilled ones last."""
    wanted = [variant for e in picked for variant in e.students.get(part.name, ())]
    return sorted(dict.fromkeys(wanted), key=lambda variant: variant == DISTILLED)


def _stages(
    picked: Sequence[Experiment], found: Sequence[Part], part: Part, variants: Sequence[str]
) -> tuple[Stage, ...]:
    """What of a part is needed: by its own students, and by those of other parts."""
    begun = [other for other in found if _variants(picked, other)]
    label: tuple[Stage, ...] = ("label",) if any(o.set_of == part.name for o in begun) else ()
    teach: tuple[Stage, ...] = ("teach",) if any(o.teacher_of == part.name for o in begun) else ()
    if variants:
        return ("distill",) if part.set_of is not None else ("teach", "label", "distill")
    return ("teach", *label) if label else teach


def _one_ray(run: Run) -> Any:
    """Ray once for all parts; where it runs already, this does nothing."""
    from kd_ray.on_ray import connected

    return connected(run.address, run.verbose)
