"""`[objective]`: what a student minimizes."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from kd_ray.config.soft_weight import SoftWeight, SoftWeightField
from kd_ray.config.table import Share, Table


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

    members: int | list[Annotated[int, Field(ge=0)]] | None = None
    """Which of several teachers are averaged: the first so many, or those of these numbers."""

    member_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weights of the teachers that are averaged, in the order of members; none for equal ones."""

    soft_decay: Share = 0.0
    """c falls linearly to (1 - soft_decay) of itself over the run."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.hard_weight == 0 and self.soft_weight.factor == 0:
            raise ValueError(
                "hard_weight and soft_weight must not both be 0; there is nothing to learn from"
            )
        return self

    @field_validator("members")
    @classmethod
    def _some_members(cls, value: int | list[int] | None) -> int | list[int] | None:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"members must be at least 1, but got {value}")
        if isinstance(value, list) and (not value or len(set(value)) != len(value)):
            raise ValueError(f"members must be one number or more, each once, but got {value}")
        return value

    @field_validator("member_weights")
    @classmethod
    def _positive_sum(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and sum(value) <= 0:
            raise ValueError(f"member_weights must sum to something positive, but got {value}")
        return value

    @model_validator(mode="after")
    def _a_weight_for_each_member(self) -> Self:
        members = self.members
        count = len(members) if isinstance(members, list) else members
        if self.member_weights is not None and count not in (None, len(self.member_weights)):
            raise ValueError(
                f"member_weights must be one for each of the {count} members, but there are "
                f"{len(self.member_weights)}"
            )
        return self
