"""Running stages with a display, and what is printed when they are done."""

from typing import cast

from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.specialists import coverage_table
from kd_ray.cli.tables import closing_lines, closing_table, exercises_table
from kd_ray.errors import ConfigError
from kd_ray.files import place
from kd_ray.pipeline import Stage, open_recipe
from kd_ray.pipeline import run as run_stages
from kd_ray.report.exercises import write_exercises
from kd_ray.variants import exercise_variants


def run_with_display(
    source: str,
    stages: tuple[str, ...] | None,
    overrides: list[str],
    runs: str,
    *,
    address: str | None,
    local: bool,
    verbose: bool,
    temperatures: str | None = None,
) -> None:
    """Performs stages of a recipe; see `pipeline.run` for arguments and errors.

    With `temperatures`, numbers with commas between, the students are those of the four exercises.
    """
    console = Console()
    recipe = open_recipe(source, overrides)
    variants = [] if temperatures is None else exercise_variants(_numbers(temperatures))
    with Display(console) as display:
        summary = run_stages(
            recipe,
            runs=runs,
            stages=cast(tuple[Stage, ...] | None, stages),
            address=address,
            local=local,
            verbose=verbose,
            variants=variants,
            listener=display.show,
        )
    if temperatures is not None:
        console.print(exercises_table(summary))
        for path in write_exercises(summary.folder, summary):
            console.print(f"{place(runs) / recipe.name / path.name}: written", highlight=False)
    elif summary.rows:
        console.print(closing_table(summary, console.width))
    covered = coverage_table(summary)
    if covered is not None:
        console.print(covered)
    for line in closing_lines(summary):
        console.print(line, highlight=False)
    console.print(f"In {place(runs) / recipe.name}", highlight=False, markup=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--temperatures: must be numbers with commas between, such as 1,4,20, but got {text!r}"
        ) from None
