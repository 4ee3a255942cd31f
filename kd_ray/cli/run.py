"""Running stages with a display, and what is printed when they are done."""

from pathlib import Path
from typing import cast

from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.tables import closing_lines, closing_table
from kd_ray.pipeline import Stage, open_recipe
from kd_ray.pipeline import run as run_stages


def run_with_display(
    source: str,
    stages: tuple[str, ...],
    overrides: list[str],
    runs: Path,
    *,
    address: str | None,
    local: bool,
    verbose: bool,
) -> None:
    """Performs stages of a recipe; see `pipeline.run` for arguments and errors."""
    console = Console()
    recipe = open_recipe(source, overrides)
    with Display(console) as display:
        summary = run_stages(
            recipe,
            runs=runs,
            stages=cast(tuple[Stage, ...], stages),
            address=address,
            local=local,
            verbose=verbose,
            listener=display.show,
        )
    if summary.rows:
        console.print(closing_table(summary, console.width))
    for line in closing_lines(summary):
        console.print(line, highlight=False)
    console.print(f"In {runs / recipe.name}", highlight=False, markup=False)
