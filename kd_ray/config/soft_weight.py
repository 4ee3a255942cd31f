"""The soft weight c as a recipe writes it: a number, or a multiple of T squared."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

SOFT_WEIGHT_RULE = 'must be a number >= 0, "T^2" or a multiple such as "0.5*T^2"'


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
