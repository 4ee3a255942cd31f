"""`kd-ray export`: files of finished models, with a table that compares them."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_ray.cli.options import CodeOption, DataOption, answered

if TYPE_CHECKING:
    from kd_ray.config.export import ExportOptions
    from kd_ray.pipeline import Run
    from kd_ray.result import Result


@answered
def export(
    path: Annotated[
        str,
        typer.Argument(help="Checkpoint, finished training, or sweep: its best trial or front."),
    ],
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

    from kd_ray.catalog import pick
    from kd_ray.cli.display import Display
    from kd_ray.cli.tables import fitting_table
    from kd_ray.config.export import ExportOptions
    from kd_ray.errors import ConfigError
    from kd_ray.export.formats import FORMATS
    from kd_ray.report.exports import export_rows
    from kd_ray.runs.export import FOLDER

    wanted = list(dict.fromkeys(formats or ["packed"]))
    for name in wanted:
        pick("format", FORMATS, name)
    if rows is not None and rows < 1:
        raise ConfigError(f"--rows: must be at least 1, but got {rows}; leave it out for all rows")
    options = ExportOptions.model_validate({"formats": wanted, "rows": rows})
    console = Console(highlight=False, markup=False)
    results: list[Result] = []
    folders = []
    for place in models_at(path):
        work, of = exporting(place, options, data_root)
        with Display(console) as display, closing(work.events(["export"])) as events:
            for task, event in events:
                display.show(task, event)
        results += work.results.values()
        folders.append(work.folder / FOLDER / of)
    lines = export_rows(results, named=len(folders) > 1)
    title = f"{path}: test split, one thread"
    console.print(fitting_table(title, lines, console.width, LEAVING))
    for folder in folders:
        console.print(f"In {folder}", soft_wrap=True)


LEAVING = ("float size", "float torch", "largest difference", "touched", "model")
"""Columns that a narrow terminal goes without, the least missed first."""


def models_at(path: str) -> list[Path]:
    """Absolute folders of the models that are exported: one, or those of a sweep's best trials.

    Raises:
        KdRayError: there is no model, or the sweep has no finished trial.
    """
    from kd_ray.files import to_path
    from kd_ray.runs.fit import checkpoint_at
    from tuning.driver import best_students, is_sweep

    place = to_path(path).absolute()
    if is_sweep(place):
        return best_students(place)
    checkpoint_at(place)
    return [place]


def exporting(place: Path, options: "ExportOptions", data_root: str | None) -> "tuple[Run, str]":
    """The run that exports a model, and where that lies below the run's folder.

    It is the run folder that the model lies in; a checkpoint that was taken elsewhere has its
    exports beside it.

    Raises:
        CheckpointError: the checkpoint is not as it was written.
    """
    from kd_ray.artefacts.evaluate import recipe_of
    from kd_ray.pipeline import Run
    from kd_ray.runs.fit import checkpoint_at
    from kd_ray.runs.folder import RECIPE, SWEEP
    from kd_ray.training.checkpoint import read_meta

    checkpoint = checkpoint_at(place)
    recipe = recipe_of(checkpoint, read_meta(checkpoint).recipe)
    homes = [each for each in place.parents if (each / RECIPE).is_file()] or [place.parent]
    home = homes[1] if homes[0].name == SWEEP and homes[1:] == [homes[0].parent] else homes[0]
    of = place.relative_to(home).as_posix()
    data = recipe.data.model_copy(update={"root": data_root or recipe.data.root})
    table = options.model_copy(update={"of": [of]})
    changed = recipe.model_copy(update={"export": table, "data": data})
    return Run(changed, home, local=True, writes_recipe=False), of
