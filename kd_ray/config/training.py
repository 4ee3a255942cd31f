"""`[teacher.train]` and `[train]`: how a model is trained, and random views of its images."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.table import Count, Entry, Named, PartialShare, Seed, Seeds, Table


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
