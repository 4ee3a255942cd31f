"""`[specialists]`: nets for classes that are confused with each other, beside the generalist."""

from typing import Self

from pydantic import Field, model_validator

from kd_ray.config.table import Seed, Table
from kd_ray.config.training import TeacherTrain


class SpecialistOptions(Table):
    """`[specialists]`: Hinton et al. 2015, section 5; made by `kd-ray specialize`."""

    count: int = Field(ge=1, le=1000)
    """How many: groups of classes, each with a specialist of its own."""

    classes_each: int | None = Field(default=None, ge=2)
    """Classes of each specialist: those nearest to its group's centre, so that a class may have
    several specialists or none. Left out, each has its group, and each class one specialist."""

    top_n: int = Field(default=1, ge=1)
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
    def _some_are_left(self) -> Self:
        if self.count == 1 and self.classes_each is None:
            raise ValueError(
                "count must be at least 2 where classes_each is left out, as a single group has "
                "every class, but got 1; raise it or set classes_each"
            )
        return self
