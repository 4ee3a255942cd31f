"""`kd-ray cluster render`: the manifest of a cluster, from a recipe's `[resources]`.

Its options are the fields of `cluster.render.options`, those of a kind in a panel of their own.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from cluster.render.options import KINDS, NodesOptions, Options, WorkloadOptions, flag
from kd_ray.cli.options import RecipeArgument, SetOption, answered


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Shows the options of manifests to Typer, in place of the last parameter of `command`."""
    parameters = list(inspect.signature(command).parameters.values())[:-1]
    shown = inspect.Signature([*parameters, *field_parameters()])
    command.__signature__ = shown  # type: ignore[attr-defined]
    return command


def field_parameters() -> Iterator[Parameter]:
    """A parameter for each option of manifests, empty where it is not given."""
    for panel, options in (("Options", WorkloadOptions), ("Nodes", NodesOptions)):
        yield from (_parameter(name, [options], panel) for name in options.model_fields)
    for name in dict.fromkeys(name for options in KINDS.values() for name in options.model_fields):
        having = {kind: options for kind, options in KINDS.items() if name in options.model_fields}
        yield _parameter(name, [*having.values()], f"Options of {' and '.join(having)}")


def _parameter(name: str, classes: Sequence[type[Options]], panel: str) -> Parameter:
    fields = [options.model_fields[name] for options in classes]
    kind: Any = get_type_hints(classes[0])[name]
    if kind is not bool:
        kind = (list[str] if isinstance(fields[0].default, tuple) else kind) | None
    # Typer keeps the line breaks of what it is given.
    about = dict.fromkeys(" ".join(str(field.description).split()) for field in fields)
    option = typer.Option(flag(name), help=" Or: ".join(about), rich_help_panel=panel)
    annotation = Annotated[kind, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@answered
@with_fields
def render(
    kind: Annotated[str, typer.Argument(help="kuberay, slurm or vm.", metavar="KIND")],
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; else the manifest is printed.")
    ] = None,
    **given: Any,
) -> None:
    """Write the manifest of a cluster that runs a recipe: KubeRay, Slurm or Ray's launcher."""
    from cluster.render.targets import render as rendered
    from kd_ray.errors import ConfigError
    from kd_ray.files import committed_file

    options = {name: value for name, value in given.items() if value not in (None, [])}
    text = rendered(kind, recipe, overrides or [], **options)
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: must be a file in a folder that exists; name another one")
    with committed_file(out) as draft:
        draft.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: written", err=True)
