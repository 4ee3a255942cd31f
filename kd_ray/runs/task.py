"""Stages and tasks: a stage is one kind of artefact, a task is one artefact that a run asks for.

Every stage is a module that ends in its `Stage`, and a line in the table of `stages`. A task
carries all that making its artefact takes, so it can be sent to any process.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.config import DataOptions, Recipe, Train
from kd_ray.files import to_path
from kd_ray.result import Result
from kd_ray.runs.events import Event
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.variants import Variant
from kd_ray.training.workers import Worker


@dataclass(frozen=True)
class Stage:
    """One kind of artefact.

    Attributes:
        name: as results and checkpoints record it.
        kind: what the artefact is, see `result`.
        commands: the commands of `kd-ray` that ask for such artefacts.
        training: how a task's model is trained; None where none is. The workers of a training meet
            in every step, and trainings of one stage may run in parallel.
        table: the table of the recipe without which there are no such artefacts, or None.
        tasks: the artefacts that a run asks for.
        title: what a person calls a task's artefact.
        folder: where it lies.
        identity: the part of the recipe that determines it, as nested tables.
        parents: name -> sha256 of the artefacts that it is made from, as far as they are there.
        perform: makes the artefact, from wherever an earlier attempt left off.
        summary: what is said of a finished one in a clause.
        details: lines that are printed below it; none where the clause says everything.
        needs: raises a `KdRayError` where the run cannot make an artefact that is missing.
        alike: equal for tasks whose trainings differ in numbers alone, so that they may be trained
            as one; None for one that is trained alone.
    """

    name: str
    kind: str
    commands: tuple[str, ...]
    tasks: "Callable[[Request], list[Task]]"
    title: "Callable[[Task], str]"
    folder: "Callable[[Task], Path]"
    identity: "Callable[[Task], dict[str, Any]]"
    parents: "Callable[[Task], dict[str, str]]"
    perform: "Callable[[Task, Worker, Inputs], Generator[Event]]"
    summary: Callable[[Result], str]
    training: "Callable[[Task], Train] | None" = None
    table: str | None = None
    details: Callable[[Result], Sequence[str]] = lambda result: ()
    needs: "Callable[[Task], None]" = lambda task: None
    alike: "Callable[[Task], str | None]" = lambda task: None


@dataclass(frozen=True)
class Task:
    """One artefact to make.

    Attributes:
        stage: which kind.
        recipe: the resolved recipe; that of a student's variant is the variant's own.
        run: absolute run folder, or its URL.
        data_root: absolute folder of the dataset's files, as the driver knows it, or None.
        member: number of the teacher or specialist.
        variant: name of the student's variant.
        seed: the student's seed.
        made_of: folder of the model that is exported, below the run's, with slashes.
        format: of the file that it is exported to.
        parents: artefact -> fingerprint or name of what the task comes from beside its data.
        sources: tasks of the same run whose artefacts it is made from.
        touch_test: whether the final figures are of the test split, which is the rule; the trials
            of a sweep are judged by the validation rows, and leave the test split alone.
        checkpoint_s: seconds at least from one checkpoint to the next; 0 for one after each epoch.
            The last epoch, the best one where it is kept, and the one after which nobody listens
            any more have theirs in any case.
        awaited: epochs after which whoever listens may end the training: each has its checkpoint
            before it is told, and no worker goes on until the next event is asked for.
        fused: whoever performs it trains its epochs, with those of others, see `training.fused`.
    """

    stage: Stage
    recipe: Recipe
    run: str
    data_root: str | None = None
    member: int = 0
    variant: str = ""
    seed: int = 0
    made_of: str = ""
    format: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    sources: "tuple[Task, ...]" = ()
    touch_test: bool = True
    checkpoint_s: float = 0.0
    awaited: frozenset[int] = frozenset()
    fused: bool = False

    @property
    def title(self) -> str:
        """What a person calls its artefact."""
        return self.stage.title(self)

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return to_path(self.run)

    @property
    def folder(self) -> Path:
        """Where its artefact lies."""
        return self.stage.folder(self)

    @property
    def data(self) -> DataOptions:
        """`[data]` with the dataset's folder filled in."""
        return self.recipe.data.model_copy(update={"root": self.data_root})

    def recipe_table(self) -> dict[str, Any]:
        """The recipe as artefacts record it."""
        return self.recipe.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Request:
    """What a run is asked to make.

    Attributes:
        recipe: with absolute paths.
        run: absolute run folder, or its URL.
        commands: those whose artefacts are wanted.
        variants: of the student, instead of the recipe's own; none for those.
        data_root: as in `Task`.
        checkpoint_s: as in `Task`.
        logits: absolute path or URL of a file to import, where the recipe has no teacher.
    """

    recipe: Recipe
    run: str
    commands: tuple[str, ...]
    variants: Sequence[Variant] = ()
    data_root: str | None = None
    checkpoint_s: float = 0.0
    logits: str | None = None

    @property
    def labels_here(self) -> bool:
        """Whether the run has teachers and a transfer set of its own."""
        return self.recipe.transfer_set.path is None and self.recipe.teacher is not None

    @property
    def imports_here(self) -> bool:
        """Whether the run has a transfer set of its own whose logits come from elsewhere."""
        return self.recipe.transfer_set.path is None and self.recipe.teacher is None

    def task(self, stage: Stage, **fields: Any) -> Task:
        """A task of this run; `fields` are those that tell it from others."""
        own = {"recipe": self.recipe, "data_root": self.data_root}
        return Task(stage, run=self.run, checkpoint_s=self.checkpoint_s, **own | fields)
