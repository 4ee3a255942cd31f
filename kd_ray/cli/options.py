"""What commands have in common: their options, and how they answer what a user can mend."""

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from kd_ray.errors import KdRayError

P = ParamSpec("P")
INTERRUPTED = 130

RecipeArgument = Annotated[str, typer.Argument(help="A .toml file, or a shipped recipe's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; may be repeated."),
]
RunsOption = Annotated[
    str, typer.Option("--runs", metavar="PLACE", help="Folder of run folders, or its URL.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Processes that train one model together.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="A Ray cluster to run on.")
]
LocalOption = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Ray's own log lines.")]
TrialOption = Annotated[
    int | None, typer.Option("--trial", help="Its number; the best one by default.")
]
SweepArgument = Annotated[str, typer.Argument(help="A sweep's run folder.", metavar="SWEEP")]
DataOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the dataset's files.")
]


def answered(command: Callable[P, None]) -> Callable[P, None]:
    """Turns what the user can mend into one sentence and exit code 2, and Ctrl-C into advice."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KdRayError as error:
            typer.echo(f"kd-ray: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = shlex.join(["kd-ray", *sys.argv[1:]])
            typer.echo(
                f"\nkd-ray: interrupted; finished epochs and shards are kept, go on with: {again}",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None

    return wrapper
