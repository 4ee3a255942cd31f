"""What every table of a recipe has in common: strictness, names, bounds."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _each_once(values: list[Any] | None) -> list[Any] | None:
    if values is not None and any(value in values[:at] for at, value in enumerate(values)):
        raise ValueError(f"must have each value once, but got {values}")
    return values


EachOnce = AfterValidator(_each_once)
"""A list without repetitions."""

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=10**6)]
"""Units or channels of a layer."""

Share = Annotated[float, Field(ge=0, le=1)]
PartialShare = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[list[Seed], Field(min_length=1), EachOnce]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Table(BaseModel):
    """A table of a recipe: strict types, no unknown keys, never changed after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Named(BaseModel):
    """An entry of a catalogue with its options: `"cosine"` or `{ name = "step", ... }`."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, use_attribute_docstrings=True
    )

    name: str = Field(max_length=100)
    """Key of the catalogue; the other keys are the options of that entry."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.__pydantic_extra__ or {})


def named(value: Any) -> Any:
    """The table of a bare name; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


Entry = Annotated[Named, BeforeValidator(named)]
