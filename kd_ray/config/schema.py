"""The schema of a recipe: one class for each of its tables, a docstring under each key.

Values are checked here as far as they stand alone. Names of models and schedules, and the options
that go with them, are checked by the floors that have the catalogues, against their signatures.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.data import DataOptions
from kd_ray.config.export import ExportOptions
from kd_ray.config.model import ModelEntry
from kd_ray.config.objective import Objective
from kd_ray.config.quantizer import QuantizerOptions
from kd_ray.config.sweep import SweepOptions
from kd_ray.config.table import Count, EachOnce, Name, Share, Table
from kd_ray.config.tracking import TrackingOptions
from kd_ray.config.training import (
    SpecialistOptions,
    StudentTrain,
    TeacherOptions,
    Train,
    TransferSetOptions,
)
from kd_ray.own_code import is_dotted


class StudentOptions(Table):
    """`[student]`: the model that learns, and what it is compared with."""

    model: ModelEntry
    """A model with its options and the weights it starts from."""

    quantizer: QuantizerOptions | None = None
    """Weights and activations of few bits; none for a float student."""

    continues: str | None = None
    """Folder of a student with its seed-* folders: each seed goes on from the latest checkpoint
    there, on the schedule of [train], instead of from new weights."""

    views: int | None = Field(default=None, ge=1)
    """Show the student the first so many of the stored views; none for all of them."""

    teacher_in_every_step: bool = False
    """Run the teacher in every step, on a new view for each epoch, instead of reading its stored
    logits: what these are compared with."""

    baselines: Annotated[
        list[Literal["labels", "smoothing", "softened-labels", "online"]], EachOnce
    ] = Field(default=["labels"])
    """Trained beside the distilled student on the same rows with the same budget: hard labels only,
    hard labels smoothed by 0.1, hard labels with labels at temperature T as soft targets, and the
    same objective with the teacher run in every step on new views instead of stored logits."""

    @model_validator(mode="after")
    def _one_kind_of_views(self) -> Self:
        if self.views is not None and self.teacher_in_every_step:
            raise ValueError(
                f"views = {self.views} chooses stored views, but with teacher_in_every_step none "
                "are read; leave one of the two out"
            )
        return self


class Resources(Table):
    """`[resources]`: what a run may use. Nothing here changes what is computed but float order."""

    workers: int = Field(default=1, ge=1, le=10_000)
    """Processes that train one model together."""

    elastic: Literal[False] | Annotated[tuple[int, int], Field(strict=False)] = False
    """Fewest and most workers: a training goes on with what a cluster has left, and grows again.
    It takes the place of `workers`."""

    placement: Literal["pack", "spread"] = "pack"
    """Workers of one model on as few nodes as possible, or on as many."""

    cpus_per_worker: Count | Literal["auto"] = "auto"
    """CPU threads of a worker; auto shares the CPUs out evenly."""

    gpus_per_worker: Share | Literal["auto"] = "auto"
    """0, 1, or a fraction, as which several workers or trials share a GPU; auto is one GPU if there
    is one for every worker, else none."""

    fuse: Count | Literal["auto"] = "auto"
    """Students of one network that are trained as one at most, where they differ in numbers alone
    (T, c, learning rate, seed, ...); auto tries whether that is faster, 1 never does it."""

    max_failures: int = Field(default=3, ge=0)
    """Lost workers to replace before giving up."""

    packages: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] | None = None
    """Further modules that own code imports, beside the recipe or on Python's path: they are sent
    to a cluster's machines along with those that dotted paths name."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.elastic and not 1 <= self.elastic[0] <= self.elastic[1] <= 10_000:
            raise ValueError(
                "elastic must be [fewest, most] workers with 1 <= fewest <= most <= 10000, but got "
                f"{list(self.elastic)}"
            )
        if self.elastic and self.workers not in (1, self.elastic[1]):
            raise ValueError(
                f"workers must be left out beside elastic = {list(self.elastic)}, "
                f"but is {self.workers}"
            )
        return self

    @property
    def most_workers(self) -> int:
        """How many processes train one model when the cluster has room for all."""
        return self.elastic[1] if self.elastic else self.workers


class Recipe(Table):
    """Everything about a run, from data to resources."""

    name: Name
    """Name of the run folder, and so the key under which a run is resumed."""

    data: DataOptions
    """Which images."""

    teacher: TeacherOptions | None = None
    """The model that is distilled; left out where transfer_set.path names a finished set, or where
    kd-ray import brings logits from elsewhere."""

    transfer_set: TransferSetOptions = TransferSetOptions()
    """The teacher's stored logits."""

    student: StudentOptions
    """The model that learns."""

    objective: Objective = Objective()
    """The student's loss."""

    train: StudentTrain = StudentTrain()
    """How students are trained."""

    resources: Resources = Resources()
    """What the run may use."""

    specialists: SpecialistOptions | None = None
    """Nets for classes that the teacher confuses."""

    sweep: SweepOptions | None = None
    """What `kd-ray tune` searches."""

    export: ExportOptions | None = None
    """Files of the students for machines without torch."""

    tracking: TrackingOptions | None = None
    """Who hears of the run while it goes on."""

    code: str | None = None
    """Folder of the modules that dotted paths such as `my_nets:tiny` name; else the recipe's own,
    and then Python's path."""

    @model_validator(mode="after")
    def _rules_across_tables(self) -> Self:
        if self.teacher is None and self.transfer_set.path is None:
            self._check_nothing_runs_a_teacher()
        trains: dict[str, Train] = {"train": self.train}
        if self.teacher is not None:
            trains["teacher.train"] = self.teacher.train
        if self.data.labelled < 1 and self.transfer_set.classes is not None:
            raise ValueError(
                "transfer_set.classes: chooses rows by their labels, but data.labelled = "
                f"{self.data.labelled:g} hides some of them; choose data.classes, or all labels"
            )
        if self.specialists is not None:
            self._check_specialists(self.specialists)
            trains["specialists.train"] = self.specialists.train
        for place, train in trains.items():
            held_out = self.data.has_validation or (train is self.train and self.train.hold_out)
            if not held_out and (train.keep == "best" or train.patience):
                raise ValueError(
                    f'{place}: keep = "best" and patience choose by validation accuracy, but '
                    "data.validation is 0; set data.validation, or keep the last epoch"
                )
        of_labels = set(self.student.baselines) - {"online"} or not self.objective.is_taught
        if self.transfer_set.unlabelled == 1 and of_labels:
            raise ValueError(
                "transfer_set.unlabelled: 1 hides every label, but a student learns from labels "
                "alone; lower it, or set student.baselines = [] and give the soft term a weight"
            )
        if self.data.has_validation and self.train.hold_out:
            rows = (
                f"the {self.data.validation} rows of data.validation; set one of the two to 0"
                if self.data.validation
                else "the rows of data.speakers.validation; leave one of the two out"
            )
            raise ValueError(
                f"train.hold_out: {self.train.hold_out:g} of the rows cannot take the place of "
                f"{rows}"
            )
        return self

    def _check_nothing_runs_a_teacher(self) -> None:
        uses = {
            "student.teacher_in_every_step": self.student.teacher_in_every_step,
            'student.baselines: "online"': "online" in self.student.baselines,
            "specialists": self.specialists is not None,
        }
        if place := next((place for place, used in uses.items() if used), None):
            raise ValueError(
                f"{place}: needs a teacher that can be run, but there is no [teacher], only logits "
                "that were imported; add [teacher], or leave it out"
            )

    @property
    def own_code(self) -> set[str]:
        """Dotted paths of the user's own functions, also of those that a sweep tries."""
        teacher, objective = self.teacher, self.objective
        models = [self.student.model]
        if teacher is not None:
            models += [teacher.model_of(member) for member in range(teacher.members)]
        names: list[Any] = [model.name for model in models]
        names += [self.data.name, objective.name, (objective.options or {}).get("of")]
        for space in self.sweep.space.values() if self.sweep else []:
            names += space.choice or []
        return {*filter(is_dotted, names), *(self.resources.packages or [])}

    def _check_specialists(self, specialists: SpecialistOptions) -> None:
        if self.teacher is not None and specialists.generalist >= self.teacher.members:
            raise ValueError(
                f"specialists.generalist: must be a member of the {self.teacher.members} of "
                f"teacher.members, counted from 0, but got {specialists.generalist}"
            )
        if not self.objective.is_taught:
            raise ValueError(
                "specialists: are distilled into a student by their soft targets, but [objective] "
                'has none; set soft_weight above 0 and targets = "teacher"'
            )
