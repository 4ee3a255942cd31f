"""How models are trained, which ones teach, and what they label; random views of their images."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kd_ray.config.model import ModelEntry, ModelOptions
from kd_ray.config.table import (
    Count,
    EachOnce,
    Entry,
    Named,
    PartialShare,
    Seed,
    Seeds,
    Share,
    Table,
)

Part = Annotated[float, Field(ge=0.01, le=1)]


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

    resized_crop: Annotated[list[Part] | None, Field(min_length=2, max_length=2)] = None
    """Least and largest share of the area that is enlarged to the whole, as in [0.35, 1.0]; sides
    keep their proportion but for 4 : 3."""

    color: Share = 0.0
    """Change of brightness, contrast and saturation at most: 0.4 multiplies each by 0.6 to 1.4."""

    @property
    def has_arithmetic(self) -> bool:
        """Whether views are more than the same pixels in other places."""
        return bool(self.rotate or self.resized_crop or self.color)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.resized_crop and self.resized_crop[0] > self.resized_crop[1]:
            raise ValueError(
                f"resized_crop must be from a share to a larger one, but got {self.resized_crop}; "
                "exchange them"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Views of sets from before there were these are what they were: so are identities.
        table: dict[str, Any] = handler(self)
        new = {"resized_crop": None, "color": 0.0}
        return {key: value for key, value in table.items() if (key, value) not in new.items()}

    @property
    def is_identity(self) -> bool:
        """Whether every view is the plain image."""
        return self == Augment()


class Train(Table):
    """Keys that `[teacher.train]` and `[train]` share."""

    epochs: Count = 20
    """Passes over the rows; one view of every image each."""

    batch_size: Count = 128
    """Images in a step over all workers together."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """SGD (with momentum), Adam or AdamW, as torch.optim has them."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate; the schedule scales it."""

    momentum: PartialShare = 0.9
    """SGD's momentum, or Adam's beta1; a one-cycle schedule moves it."""

    nesterov: bool = True
    """Nesterov's momentum, for SGD."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay as torch.optim defines it for the optimizer."""

    schedule: Entry = Named(name="cosine")
    """A key of the schedule catalogue (constant, cosine, one-cycle, step), or a table."""

    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; none for no clipping."""

    label_smoothing: PartialShare = 0.0
    """Share of the hard label's mass that is spread over all classes."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast; auto takes it on GPUs that have it."""

    keep: Literal["best", "last"] = "last"
    """Which epoch is the result; best needs validation rows."""

    patience: Count | None = None
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

    epochs: int = Field(default=20, ge=0)
    """As of `[train]`; 0 for a teacher that is finished and only labels."""

    seed: Seed = 0
    """Seed of member 0; member m has seed + m."""

    augment: Augment = Augment()
    """Fresh random views in every epoch."""


class StudentTrain(Train):
    """`[train]`: how a student is trained."""

    seeds: Seeds = Field(default=[0])
    """One student for each seed; figures are their mean and spread."""

    hold_out: PartialShare = 0.0
    """Share of the transfer set's training rows that are not trained on, to choose among epochs by,
    where there are no validation rows."""


class TeacherOptions(Table):
    """`[teacher]`: the model that is distilled."""

    model: ModelEntry | None = None
    """A model with its options and the weights it starts from."""

    models: list[ModelEntry] | None = Field(default=None, min_length=1)
    """Instead of one model for all: the members' models, in turn."""

    members: int = Field(default=1, ge=1, le=1000)
    """Teachers with different seeds; their logits are stored one by one."""

    path: str | None = None
    """A run folder that has these teachers already; they are checked, and not trained again."""

    columns: Annotated[list[Annotated[int, Field(ge=0)]], EachOnce] | str | None = None
    """Which of the models' outputs are the K classes: their numbers in the order of the classes, or
    a file with the names of all outputs, a line each; none where they are just these."""

    train: TeacherTrain = TeacherTrain()
    """How each member is trained. Left out where all models have weights, or with epochs = 0, they
    are finished: evaluated, and then they label."""

    @model_validator(mode="before")
    @classmethod
    def _finished(cls, values: Any) -> Any:
        if isinstance(values, dict) and "train" not in values:
            models = values.get("models") or [values.get("model")]
            if all(isinstance(model, dict) and model.get("weights") for model in models):
                return values | {"train": {"epochs": 0}}
        return values

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.model is None) == (self.models is None):
            raise ValueError(
                "either model or models is needed, the one for all members, the others in turn"
            )
        for model in map(self.model_of, range(self.members)):
            if not self.train.epochs and (model.weights is None or model.head is not None):
                raise ValueError(
                    f"train.epochs = 0 needs a finished teacher, but model {model.name!r} has "
                    f"{'a new head' if model.weights else 'no weights'}; name a file with "
                    "model.weights, or raise train.epochs"
                )
            if self.columns is not None and model.head is not None:
                raise ValueError('columns picks trained outputs, but head = "new" has none')
        if self.models is not None and len(self.models) > self.members:
            raise ValueError(
                f"models names {len(self.models)} models, but there are {self.members} members; "
                "raise members or name fewer"
            )
        return self

    def with_absolute_paths(self) -> "TeacherOptions":
        """The same teachers for processes with another working directory."""
        models = self.models and [model.with_absolute_paths() for model in self.models]
        model = self.model and self.model.with_absolute_paths()
        columns = self.columns
        if isinstance(columns, str) and "://" not in columns:
            columns = str(Path(columns).absolute())
        return self.model_copy(update={"models": models, "model": model, "columns": columns})

    def model_of(self, member: int) -> ModelOptions:
        """The model of a member."""
        if self.models is not None:
            return self.models[member % len(self.models)]
        assert self.model is not None  # by the rules
        return self.model


class TransferSetOptions(Table):
    """`[transfer_set]`: which rows the teacher labels, and how they are stored."""

    path: str | None = None
    """A transfer set that exists already; teacher and labelling are then left out."""

    dtype: Literal["float16", "float32", "compact", "compact-tenth"] = "float16"
    """Type of the stored logits; compact codes, of many classes, take at most a quarter or a tenth
    of float16's bytes, and readers rebuild all K logits from them."""

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

    shard_rows: Count = 8192
    """Rows in one Parquet file."""

    compression: Literal["none", "zstd"] = "none"
    """Compression of the Parquet pages; none reads fastest."""

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


class SpecialistOptions(Table):
    """`[specialists]`: nets for classes that are confused with each other, beside the generalist.

    Hinton et al. 2015, section 5; made by `kd-ray specialize`.
    """

    count: int = Field(ge=1, le=1000)
    """Groups of classes, each with a specialist of its own."""

    classes_each: int | None = Field(default=None, ge=2)
    """Classes of each specialist: those nearest to its group's centre, so that a class may have
    several specialists or none. Left out, each has its group, a lone class its nearest, too."""

    top_n: Count = 1
    """A specialist takes part where it has one of the generalist's first n choices."""

    temperature: float = Field(default=1.0, ge=1e-3, le=1e6)
    """T of the predictions that groups are made from; a generalist that is sure of its training
    images shows what it confuses at a higher one."""

    generalist: int = Field(default=0, ge=0)
    """Member of the ensemble that they start from and are combined with."""

    seed: Seed = 0
    """Seed of the k-means that makes the groups."""

    train: TeacherTrain = TeacherTrain()
    """How each is trained; specialist m has seed + m. An epoch is its own images once, and as many
    of other classes."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.count == 1 and self.classes_each is None:
            raise ValueError(
                "count must be at least 2 where classes_each is left out, as a single group has "
                "every class, but got 1; raise it or set classes_each"
            )
        return self
