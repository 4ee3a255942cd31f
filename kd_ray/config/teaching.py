"""`[teacher]` and `[transfer_set]`: who labels, and what."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.table import Entry, Named, Seed, Share, Table
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
