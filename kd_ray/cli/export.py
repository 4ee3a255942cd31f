"""`kd-ray export`: files of finished models, with a table that compares them."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_ray.cli.options import CodeOption, DataOption, answered

if TYPE_CHECKING:
    from kd_ray.pipeline import Run
    from kd_ray.result import Result


@answered
def export(
    path: Annotated[str, typer.Argument(help="Checkpoint, or folder of a finished training.")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="packed (the default), c, onnx or pt2; may be repeated."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Test images to compare with torch on; all of them by default."),
    ] = None,
    data_root: DataOption = None,
    code: CodeOption = None,
) -> None:
    """Write a model as files that others run, and prove that they answer as it does."""
    from rich.console import Console

    from kd_ray.cli.display import Display
    from kd_ray.cli.tables import fitting_table

    work, folder = exporting(path, formats or ["packed"], rows, data_root)
    console = Console(highlight=False, markup=False)
    with Display(console) as display, closing(work.events(["export"])) as events:
        for task, event in events:
            display.show(task, event)
    lines = list(export_rows(work.results))
    console.print(fitting_table(f"{path}: test split, one thread", lines, console.width, LEAVING))
    console.print(f"In {folder}", soft_wrap=True)


LEAVING = ("touched", "largest difference", "float size", "torch")
"""Columns that a narrow terminal goes without, the least missed first."""


def exporting(
    path: str, formats: list[str], rows: int | None, data_root: str | None
) -> "tuple[Run, Path]":
    """The run that exports what lies at a path, and the folder where that will lie.

    Raises:
        KdRayError: nothing there can be exported, or not so.
    """
    from kd_ray.catalog import pick
    from kd_ray.config import load_recipe
    from kd_ray.config.export import ExportOptions
    from kd_ray.errors import ConfigError
    from kd_ray.export.formats import FORMATS
    from kd_ray.files import to_path
    from kd_ray.pipeline import Run, catalogue_problems
    from kd_ray.runs.export import FOLDER
    from kd_ray.runs.fit import checkpoint_at
    from kd_ray.runs.folder import RECIPE

    for name in formats:
        pick("format", FORMATS, name)
    if rows is not None and rows < 1:
        raise ConfigError(f"--rows: must be at least 1, but got {rows}; leave it out for all rows")
    place = to_path(path).absolute()
    checkpoint_at(place)
    home = next((each for each in place.parents if (each / RECIPE).is_file()), None)
    if home is None:
        raise ConfigError(
            f"{path}: must lie in a run folder, which has a {RECIPE}, but none of the folders "
            "around it has one; export it where it was made"
        )
    recipe = load_recipe(home / RECIPE, rules=[catalogue_problems])
    of = place.relative_to(home).as_posix()
    options = ExportOptions.model_validate(
        {"formats": list(dict.fromkeys(formats)), "rows": rows, "of": [of]}
    )
    data = recipe.data.model_copy(update={"root": data_root or recipe.data.root})
    changed = recipe.model_copy(update={"export": options, "data": data})
    return Run(changed, home, local=True), home / FOLDER / of


def export_rows(results: "Mapping[str, Result]") -> Iterable[dict[str, str]]:
    """Headings and texts of the table: a line for each export."""
    from kd_ray.units import bytes_shown

    for result in results.values():
        figures = result.metrics
        yield {
            "format": str(result.details["format"]),
            "size": bytes_shown(figures["bytes"]),
            "float size": bytes_shown(figures["float_bytes"]),
            "smaller": f"{figures['float_bytes'] / figures['bytes']:.1f} x",
            "same classes": f"{figures['agreement']:.2%} of {figures['rows']:,}",
            "largest difference": f"{figures['largest_difference']:.1e}",
            "touched": f"{figures['touched']:,}",
            "time": f"{figures['us_per_image']:,.0f} us",
            "torch": f"{figures['torch_us_per_image']:,.0f} us",
        }
