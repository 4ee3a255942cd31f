"""Running stages with a display, and what is printed when they are done."""

from typing import cast

from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.specialists import coverage_table
from kd_ray.cli.tables import closing_lines, closing_table, exercises_table, views_table
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.pipeline import Stage, open_recipe
from kd_ray.pipeline import run as run_stages
from kd_ray.runs.variants import exercise_variants, view_variants
from kd_ray.studies.exercises import write_exercises
from kd_ray.studies.views import write_views


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
    views: str | None = None,
) -> None:
    """Performs stages of a recipe; see `pipeline.run` for arguments and errors.

    Args:
        source: the recipe.
        stages: some of teach, label, distill.
        overrides: `key.path=value`, applied in order.
        runs: folder of run folders.
        address: of a cluster.
        local: in this process.
        verbose: with Ray's own log lines.
        temperatures: numbers with commas between; the students are those of the four exercises.
        views: numbers with commas between; the students are shown so many of the stored views, and
            one learns from a teacher that is run in every step.
    """
    console = Console()
    variants: list[str] = []
    if temperatures is not None:
        variants = exercise_variants(_numbers("--temperatures", temperatures))
    elif views is not None:
        numbers = _whole_numbers("--views", views)
        variants = view_variants(numbers)
        overrides = [*overrides, f"transfer_set.views={max(numbers)}"]
    recipe = open_recipe(source, overrides)
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
    if variants:
        table = exercises_table(summary) if views is None else views_table(summary, console.width)
        console.print(table)
        write = write_exercises if views is None else write_views
        for path in write(summary.folder, summary):
            console.print(f"{to_path(runs) / recipe.name / path.name}: written", highlight=False)
    elif summary.rows:
        console.print(closing_table(summary, console.width))
    covered = coverage_table(summary)
    if covered is not None:
        console.print(covered)
    for line in closing_lines(summary):
        console.print(line, highlight=False)
    console.print(f"In {to_path(runs) / recipe.name}", highlight=False, markup=False)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option}: must be numbers with commas between, such as 1,4,20, but got {text!r}"
        ) from None


def _whole_numbers(option: str, text: str) -> list[int]:
    numbers = _numbers(option, text)
    if not all(number.is_integer() for number in numbers):
        raise ConfigError(
            f"{option}: must be whole numbers with commas between, such as 1,4,16, but got {text!r}"
        )
    return [int(number) for number in numbers]
