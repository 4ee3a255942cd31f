"""What commands have in common: their options, and how they answer what a user can mend."""

import functools
import inspect
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_ray.errors import ConfigError, KdRayError

if TYPE_CHECKING:
    from kd_ray.pipeline import Where

RecipeArgument = Annotated[
    str, typer.Argument(help="Path of a .toml file, or the name of a shipped recipe.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated."
    ),
]
RunsOption = Annotated[
    str, typer.Option(metavar="PLACE", help="Folder of run folders, or its URL.")
]


def _allow(values: list[str] | None) -> list[str] | None:
    from kd_ray.own_code import allow_file

    for value in values or []:
        try:
            allow_file(value)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None
    return values


CodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--code",
        metavar="FILE",
        help="Python file, or module, that may run where this names it; may be repeated.",
        callback=_allow,
    ),
]
DataOption = Annotated[
    str | None, typer.Option(help="Folder of the dataset's files; as in the recipe by default.")
]


@dataclass(frozen=True)
class PlacementOptions:
    """The options of every command that trains."""

    workers: Annotated[
        int | None, typer.Option(help="Processes that train one model together.")
    ] = None
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Ray cluster to run on; this machine by default."),
    ] = None
    local: Annotated[bool, typer.Option("--local", help="Use this process instead of Ray.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's own log lines.")] = False

    @property
    def where(self) -> "Where":
        """The arguments of the same names."""
        return {"address": self.address, "local": self.local, "verbose": self.verbose}


@dataclass(frozen=True)
class TrainingOptions(PlacementOptions):
    """The options of every command that trains what a recipe describes."""

    overrides: SetOption = None
    runs: RunsOption = "runs"

    def sets(self, **options: object) -> list[str]:
        """Overrides of the recipe: those that were typed, the workers, and `options` by name."""
        given = {"resources.workers": self.workers, **options}
        named = [f"{key}={value}" for key, value in given.items() if value is not None]
        return [*(self.overrides or []), *named]


received: list[int] = []
"""Signals that were taken for Ctrl-C; where Ray waits, it makes its own exception of any."""


def terminate(number: int, frame: object) -> None:
    """The handler of SIGTERM, which supervisors send: as Ctrl-C, but for the exit code."""
    received.append(number)
    raise KeyboardInterrupt


def interrupted(advice: str) -> typer.Exit:
    """Says what an interrupted command leaves, and returns the exit that shells expect."""
    typer.echo(f"\nkd-ray: {advice}", err=True)
    return typer.Exit(128 + (received[-1] if received else signal.SIGINT))


def answered(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what the user can mend into one sentence and exit code 2, and Ctrl-C into advice.

    A parameter that is a dataclass of options is unfolded on the way, so that Typer sees its
    fields and the command gets one object.
    """
    parameters = inspect.signature(command).parameters.values()
    objects: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, kind in objects.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        try:
            command(**values)
        except KdRayError as error:
            typer.echo(f"kd-ray: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = shlex.join(["kd-ray", *sys.argv[1:]])
            kept = "interrupted; finished epochs and shards are kept"
            raise interrupted(f"{kept}, go on with: {again}") from None

    seen = [each for parameter in parameters for each in unfolded(parameter)]
    wrapper.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    return wrapper


def unfolded(parameter: Parameter) -> list[Parameter]:
    """A parameter that is a dataclass of options as one parameter for each of its fields."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(parameter.annotation)
    ]


def numbers_in(option: str, text: str) -> list[float]:
    """Numbers with commas between; raises a `ConfigError` where the text is something else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option}: must be numbers with commas between, such as 1,4,16, but got {text!r}"
        ) from None


def whole_numbers_in(option: str, text: str) -> list[int]:
    """Whole numbers from 0 on, each once, with commas between; see `numbers_in`.

    >>> whole_numbers_in("--seeds", "3,4")
    [3, 4]
    """
    parts = text.split(",")
    if len({int(part) for part in parts if part.strip().isdecimal()}) < len(parts):
        raise ConfigError(
            f"{option}: must be whole numbers, each once, with commas between, such as 1,2,3, "
            f"but got {text!r}"
        )
    return [int(part) for part in parts]
