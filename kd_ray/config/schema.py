"""The schema of a recipe: one class for each of its tables, a docstring under each key.

Values are checked here as far as they stand alone. Names of models and schedules, and the options
that go with them, are checked by the floors that have the catalogues, against their signatures.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Table(BaseModel):
    """A table of a recipe: strict types, no unknown keys, never changed after reading."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Named(BaseModel):
    """An entry of a catalogue with its options: `"cosine"` or `{ name = "step", ... }`."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, use_attribute_docstrings=True
    )

    name: str
    """Key of the catalogue; the other keys are the options of that entry."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.__pydantic_extra__ or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Entry = Annotated[Named, BeforeValidator(_named)]


class SoftWeight(BaseModel):
    """Weight c of the soft term: a number, or a multiple of T squared.

    c multiplies the soft cross-entropy literally. The soft gradients shrink by 1/T^2 (Hinton et al.
    2015, section 2), so `"T^2"` keeps both terms in proportion while T moves.

    >>> SoftWeight.parse("0.5*T^2").value(4.0)
    8.0
    >>> SoftWeight.parse(3).value(4.0)
    3.0
    """

    model_config = ConfigDict(frozen=True)

    factor: float
    times_temperature_squared: bool

    def value(self, temperature: float) -> float:
        """C at this temperature."""
        return self.factor * (temperature**2 if self.times_temperature_squared else 1.0)

    @classmethod
    def parse(cls, value: Any) -> "SoftWeight":
        """Reads `3`, `"3"`, `"T^2"` or `"0.5*T^2"`."""
        if isinstance(value, SoftWeight):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls._checked(float(value), False, value)
        match = re.fullmatch(r"\s*(?:([0-9.eE+-]+)\s*\*\s*)?T\^2\s*", value) if _is(value) else None
        if match:
            return cls._checked(_number(match[1] or "1", value), True, value)
        if _is(value):
            return cls._checked(_number(value, value), False, value)
        raise ValueError(f"{SOFT_WEIGHT_RULE}, but got {value!r}")

    @classmethod
    def _checked(cls, factor: float, squared: bool, got: Any) -> "SoftWeight":
        if not 0 <= factor < float("inf"):
            raise ValueError(f"{SOFT_WEIGHT_RULE}, but got {got!r}")
        return cls(factor=factor, times_temperature_squared=squared)

    def __str__(self) -> str:
        """As it is written in a recipe."""
        if not self.times_temperature_squared:
            return f"{self.factor:g}"
        return "T^2" if self.factor == 1 else f"{self.factor!r}*T^2"

    def written(self) -> float | str:
        """The value to put back into a recipe."""
        return str(self) if self.times_temperature_squared else self.factor


SOFT_WEIGHT_RULE = 'must be a number >= 0, "T^2" or a multiple such as "0.5*T^2"'


def _is(value: Any) -> bool:
    return isinstance(value, str)


def _number(text: str, got: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{SOFT_WEIGHT_RULE}, but got {got!r}") from None


SoftWeightField = Annotated[
    SoftWeight, BeforeValidator(SoftWeight.parse), PlainSerializer(SoftWeight.written)
]


class DataOptions(Table):
    """`[data]`: which images, and how they are split."""

    name: str
    """A key of the dataset catalogue, such as digits, mnist, svhn or imagefolder."""

    root: str | None = None
    """Folder of the files; else the environment variable KD_RAY_DATA, else the user's cache."""

    validation: int = Field(default=0, ge=0)
    """Rows carved from the training split for choosing among epochs; 0 for none."""

    seed: Seed = 0
    """Chooses the rows that are carved or sampled."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows to keep, the same for every class."""

    classes: list[str] | None = None
    """Keep only these classes, by name, in every split; K becomes their number."""

    standardize: bool = True
    """Feed models pixels of mean 0 and deviation 1 in each channel; else from 0 (black) to 1."""

    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Side in pixels to which `imagefolder` resizes pictures; needed there, refused elsewhere."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"classes must be at least two different names, got {self.classes}")
        if (self.name == "imagefolder") != (self.image_size is not None):
            raise ValueError(
                'image_size goes with name = "imagefolder", and is needed there, '
                f"but got name = {self.name!r} and image_size = {self.image_size}"
            )
        return self


class Augment(Table):
    """Random views of an image, each a pure function of (seed, index, view)."""

    shift: int = Field(default=0, ge=0, le=64)
    """Pixels to move at most, each way; what comes in is black."""

    crop: int = Field(default=0, ge=0, le=64)
    """Pixels of mirrored border from which a crop of the old size is taken."""

    flip: bool = False
    """Mirror left to right, one time in two."""

    rotate: float = Field(default=0.0, ge=0, le=180)
    """Degrees to turn at most, each way."""

    @property
    def is_identity(self) -> bool:
        """Whether every view is the plain image."""
        return self == Augment()


class Train(Table):
    """Keys that `[teacher.train]` and `[train]` share."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the rows; one view of every image each."""

    batch_size: int = Field(default=128, ge=1)
    """Images in a step over all workers together."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """SGD (with momentum), Adam or AdamW, as torch.optim has them."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate; the schedule scales it."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum, or Adam's beta1; a one-cycle schedule moves it."""

    nesterov: bool = True
    """Nesterov's momentum, for SGD."""

    weight_decay: float = Field(default=0.0, ge=0)
    """As torch.optim defines it for the optimizer."""

    schedule: Entry = Named(name="cosine")
    """A key of the schedule catalogue (constant, cosine, one-cycle, step), or a table."""

    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; none for no clipping."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the hard label's mass that is spread over all classes."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast; auto takes it on GPUs that have it."""

    keep: Literal["best", "last"] = "last"
    """Which epoch is the result; best needs validation rows."""

    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation accuracy."""

    compile: bool = False
    """torch.compile the model; pays on GPUs and long runs."""

    @model_validator(mode="after")
    def _sgd_rules(self) -> Self:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0, but got 0; set nesterov = false")
        return self


class TeacherTrain(Train):
    """`[teacher.train]`: how a teacher is trained."""

    seed: Seed = 0
    """Seed of member 0; member m has seed + m."""

    augment: Augment = Augment()
    """Fresh random views in every epoch."""


class TeacherOptions(Table):
    """`[teacher]`: the model that is distilled."""

    model: Entry
    """A key of the model catalogue with its options, or a torchvision classification model."""

    members: int = Field(default=1, ge=1, le=1000)
    """Teachers with different seeds; their logits are stored one by one."""

    train: TeacherTrain = TeacherTrain()
    """How each member is trained."""


class TransferSetOptions(Table):
    """`[transfer_set]`: which rows the teacher labels, and how they are stored."""

    path: str | None = None
    """A transfer set that exists already; teacher and labelling are then left out."""

    dtype: Literal["float16", "float32"] = "float16"
    """Type of the stored logits."""

    views: int = Field(default=1, ge=1, le=10_000)
    """Views of each image; view 0 is plain, the others come from augment."""

    augment: Augment = Augment()
    """What the views after the first do to an image."""

    seed: Seed = 0
    """Seed of the views, and of the rows that fraction and unlabelled choose."""

    classes: list[str] | None = None
    """Label only training rows of these classes; the teacher keeps all of its K outputs."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows to label."""

    unlabelled: Share = 0.0
    """Share of the rows whose hard label is hidden; they take part in the soft term only."""

    include_images: bool = False
    """Store the pixels too, so that a student needs no dataset."""

    shard_rows: int = Field(default=8192, ge=1)
    """Rows in one Parquet file."""

    compression: Literal["none", "zstd"] = "none"
    """Of the Parquet pages; none reads fastest."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.views > 1 and self.augment.is_identity:
            raise ValueError(
                f"views = {self.views} needs augment, else all views are the plain image; "
                "add an augment table or set views = 1"
            )
        if self.views == 1 and not self.augment.is_identity:
            raise ValueError(
                "augment applies to the views after the first, but views = 1; "
                "raise views or leave augment out"
            )
        return self


class StudentOptions(Table):
    """`[student]`: the model that learns, and what it is compared with."""

    model: Entry
    """A key of the model catalogue with its options, or a torchvision classification model."""

    baselines: list[Literal["labels", "smoothing", "softened-labels"]] = ["labels"]
    """Trained beside the distilled student on the same rows with the same budget: hard labels only,
    hard labels smoothed by 0.1, and hard labels with labels at temperature T as soft targets."""

    @field_validator("baselines")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"each baseline may be named once, but got {value}")
        return value


class Objective(Table):
    """`[objective]`: h * CE(softmax(z), y) + c * CE(softmax(z/T), targets)."""

    temperature: float = Field(default=4.0, gt=0)
    """T of both softmaxes in the soft term."""

    soft_weight: SoftWeightField = SoftWeight(factor=1.0, times_temperature_squared=True)
    """c: a number, "T^2", or a multiple such as "0.5*T^2"."""

    hard_weight: float = Field(default=1.0, ge=0)
    """h."""

    targets: Literal["teacher", "labels"] = "teacher"
    """Soft targets: the teacher's softened distribution, or the one-hot label (a control)."""

    ensemble: Literal["arithmetic", "geometric"] = "arithmetic"
    """How several teachers' distributions are averaged."""

    soft_decay: Share = 0.0
    """c falls linearly to (1 - soft_decay) of itself over the run."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.hard_weight == 0 and self.soft_weight.factor == 0:
            raise ValueError(
                "hard_weight and soft_weight must not both be 0; there is nothing to learn from"
            )
        return self


class StudentTrain(Train):
    """`[train]`: how a student is trained."""

    seeds: list[Seed] = Field(default=[0], min_length=1)
    """One student for each seed; figures are their mean and spread."""

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError(f"each seed may be named once, but got {value}")
        return value


class Resources(Table):
    """`[resources]`: what a run may use. Nothing here changes what is computed but float order."""

    workers: int = Field(default=1, ge=1)
    """Processes that train one model together."""

    cpus_per_worker: int | Literal["auto"] = "auto"
    """CPU threads of a worker; auto shares the CPUs out evenly."""

    gpus_per_worker: int | Literal["auto"] = "auto"
    """auto is one GPU if there is one for every worker, else none."""

    max_failures: int = Field(default=3, ge=0)
    """Lost workers to replace before giving up."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.cpus_per_worker != "auto" and self.cpus_per_worker < 1:
            raise ValueError(f"cpus_per_worker must be >= 1, but got {self.cpus_per_worker}")
        if self.gpus_per_worker != "auto" and not 0 <= self.gpus_per_worker <= 1:
            raise ValueError(f"gpus_per_worker must be 0 or 1, but got {self.gpus_per_worker}")
        return self


class Recipe(Table):
    """Everything about a run, from data to resources."""

    name: Name
    """Name of the run folder, and so the key under which a run is resumed."""

    data: DataOptions
    """Which images."""

    teacher: TeacherOptions | None = None
    """The model that is distilled; needed unless transfer_set.path names a finished set."""

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

    @model_validator(mode="after")
    def _rules_across_tables(self) -> Self:
        if self.teacher is None and self.transfer_set.path is None:
            raise ValueError("teacher: this table is required unless transfer_set.path is set")
        trains: dict[str, Train] = {"train": self.train}
        if self.teacher is not None:
            trains["teacher.train"] = self.teacher.train
        for place, train in trains.items():
            if self.data.validation == 0 and (train.keep == "best" or train.patience):
                raise ValueError(
                    f'{place}: keep = "best" and patience choose by validation accuracy, but '
                    "data.validation is 0; set data.validation, or keep the last epoch"
                )
        return self
