"""`[teacher]`, `[transfer_set]` and `[specialists]`: which models teach, and what they label."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.table import Count, Entry, Named, Seed, Share, Table
from kd_ray.config.training import Augment, TeacherTrain


class TeacherOptions(Table):
    """`[teacher]`: the model that is distilled."""

    model: Entry | None = None
    """A key of the model catalogue with its options, or a torchvision classification model."""

    models: list[Entry] | None = Field(default=None, min_length=1)
    """Instead of one model for all: the members' models, in turn."""

    members: int = Field(default=1, ge=1, le=1000)
    """Teachers with different seeds; their logits are stored one by one."""

    path: str | None = None
    """A run folder that has these teachers already; they are checked, and not trained again."""

    train: TeacherTrain = TeacherTrain()
    """How each member is trained."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if (self.model is None) == (self.models is None):
            raise ValueError(
                "either model or models is needed, the one for all members, the others in turn"
            )
        if self.models is not None and len(self.models) > self.members:
            raise ValueError(
                f"models names {len(self.models)} models, but there are {self.members} members; "
                "raise members or name fewer"
            )
        return self

    def model_of(self, member: int) -> Named:
        """The model of a member."""
        if self.models is not None:
            return self.models[member % len(self.models)]
        assert self.model is not None  # by the rules
        return self.model


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
    several specialists or none. Left out, each has its group, and each class one specialist."""

    top_n: Count = 1
    """A specialist takes part where it has one of the generalist's first n choices."""

    temperature: float = Field(default=1.0, gt=0)
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
