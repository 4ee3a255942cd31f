"""Running stages with a display, and what is printed when they are done."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.tables import closing_table, coverage_table
from kd_ray.report.advice import advice
from kd_ray.report.specialists import specialists_sentences
from kd_ray.report.summary import Summary


def run_with_display(begin: Callable[..., Summary], folder: Path | None = None) -> Summary:
    """Runs what `begin` does for a `listener` of events, and prints the closing table.

    The folder is the run's as it was typed; as the summary has it by default.
    """
    console = Console(highlight=False, markup=False)
    with Display(console) as display:
        summary = begin(listener=display.show)
    if summary.rows:
        console.print(closing_table(summary, console.width))
    print_closing(console, summary, folder or summary.folder)
    return summary


def print_closing(console: Console, summary: Summary, folder: Path) -> None:
    """Prints what the tables of models do not say, and the folder where everything lies."""
    covered = coverage_table(summary)
    if covered is not None:
        console.print(covered)
    for line in (*specialists_sentences(summary), *summary.sentences()):
        console.print(line)
    for line in advice(summary):
        console.print(f"Advice: {line}", style="yellow")
    console.print(f"In {folder}", soft_wrap=True)
