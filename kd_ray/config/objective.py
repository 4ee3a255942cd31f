"""`[objective]`: what a student minimizes."""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from kd_ray.config.table import EachOnce, Share, Table


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
        """The number c at this temperature."""
        return self.factor * (temperature**2 if self.times_temperature_squared else 1.0)

    @classmethod
    def parse(cls, value: Any) -> "SoftWeight":
        """Reads `3`, `"3"`, `"T^2"` or `"0.5*T^2"`.

        Raises:
            ValueError: it is none of these, or out of range.
        """
        if isinstance(value, SoftWeight):
            return value
        text = "" if isinstance(value, bool) else str(value).strip()
        squared = re.fullmatch(r"(?:(.+)\*\s*)?T\^2", text)
        try:
            factor = float((squared[1] or 1) if squared else text)
        except ValueError:
            factor = math.nan
        if not 0 <= factor <= 1e12:
            raise ValueError(
                'must be a number >= 0 and <= 1e12, "T^2" or a multiple such as "0.5*T^2", but '
                f"got {value!r}"
            )
        return cls(factor=factor, times_temperature_squared=squared is not None)

    def __str__(self) -> str:
        """The weight as it is written in a recipe."""
        if not self.times_temperature_squared:
            return f"{self.factor:g}"
        return "T^2" if self.factor == 1 else f"{self.factor!r}*T^2"

    def written(self) -> float | str:
        """The value to put back into a recipe."""
        return str(self) if self.times_temperature_squared else self.factor


SoftWeightField = Annotated[
    SoftWeight, BeforeValidator(SoftWeight.parse), PlainSerializer(SoftWeight.written)
]


class Objective(Table):
    """`[objective]`: h * CE(softmax(z), y) + c * soft term, such as CE(softmax(z/T), targets)."""

    name: str = "hinton"
    """The soft term: hinton, dkd, dist, ttm or wttm; or standardized, which is another one, its
    option `of`, on logits of mean 0 and deviation 1."""

    options: dict[str, Any] | None = None
    """Parameters of the soft term in the letters of its paper, such as { alpha = 1, beta = 8 }."""

    temperature: float = Field(default=4.0, ge=1e-3, le=1e6)
    """T of both softmaxes in the soft term."""

    soft_weight: SoftWeightField = SoftWeight(factor=1.0, times_temperature_squared=True)
    """c: a number, "T^2", or a multiple such as "0.5*T^2"."""

    hard_weight: float = Field(default=1.0, ge=0)
    """h."""

    targets: Literal["teacher", "labels"] = "teacher"
    """Soft targets: the teacher's softened distribution, or the one-hot label (a control)."""

    ensemble: Literal["arithmetic", "geometric"] = "arithmetic"
    """How several teachers' distributions are averaged."""

    members: (
        Annotated[int, Field(ge=1, le=1000)]
        | Annotated[list[Annotated[int, Field(ge=0, lt=1000)]], Field(min_length=1), EachOnce]
        | None
    ) = None
    """Which of several teachers are averaged: the first so many, or those of these numbers."""

    member_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weights of the teachers that are averaged, in the order of members; none for equal ones."""

    soft_decay: Share = 0.0
    """c falls linearly to (1 - soft_decay) of itself over the run."""

    soft_warmup: Share = 0.0
    """c rises linearly from 0 over this share of the run."""

    @property
    def is_taught(self) -> bool:
        """Whether a student learns from a teacher's soft targets, and not from labels alone."""
        return self.soft_weight.factor > 0 and self.targets == "teacher"

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.hard_weight == 0 and self.soft_weight.factor == 0:
            raise ValueError(
                "hard_weight and soft_weight must not both be 0; there is nothing to learn from"
            )
        if self.targets == "labels" and self.name != "hinton":
            raise ValueError(
                f'targets = "labels" leaves the teacher out, but name = {self.name!r} learns from '
                "it; leave one of the two out"
            )
        weights = self.member_weights
        if weights is not None and not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"member_weights must have a positive and finite sum, but got {weights}"
            )
        count = len(self.members) if isinstance(self.members, list) else self.members
        if weights is not None and count not in (None, len(weights)):
            raise ValueError(
                f"member_weights must be one for each of the {count} members, but there are "
                f"{len(weights)}"
            )
        return self
