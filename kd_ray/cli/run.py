"""Running stages with a display, and what is printed when they are done."""

from pathlib import Path
from typing import Unpack

from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.tables import closing_lines, closing_table, coverage_table
from kd_ray.files import to_path
from kd_ray.pipeline import Where, open_recipe
from kd_ray.pipeline import run as run_stages
from kd_ray.report.summary import Summary


def run_with_display(
    source: str,
    stages: tuple[str, ...] | None,
    overrides: list[str],
    runs: str,
    **where: Unpack[Where],
) -> None:
    """Performs stages of a recipe; see `pipeline.run` for the errors.

    Args:
        source: the recipe.
        stages: some of teach, label, specialize, distill; None for all that the recipe has.
        overrides: `key.path=value`, applied in order.
        runs: folder of run folders.
        where: address, local and verbose, see `pipeline.run`.
    """
    console = Console(highlight=False, markup=False)
    recipe = open_recipe(source, overrides)
    with Display(console) as display:
        summary = run_stages(recipe, runs=runs, stages=stages, **where, listener=display.show)
    if summary.rows:
        console.print(closing_table(summary, console.width))
    print_closing(console, summary, to_path(runs) / recipe.name)


def print_closing(console: Console, summary: Summary, folder: Path) -> None:
    """Prints what the tables of models do not say, and where everything lies.

    Args:
        console: to print on.
        summary: of a run.
        folder: of the run, as it was typed.
    """
    covered = coverage_table(summary)
    if covered is not None:
        console.print(covered)
    for line in closing_lines(summary):
        console.print(line)
    console.print(f"In {folder}", soft_wrap=True)
