"""Tables that commands print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.report.specialists import coverage_rows, result_of, specialists_sentences
from kd_ray.report.summary import Summary
from kd_ray.result import JOINT_SET

LEAVING = (
    *("calibration error %", "seeds", "parameters", "bit operations", "seconds"),
    *("agreement %", "size"),
)
"""Columns that a narrow terminal goes without, the least missed first."""


def closing_table(summary: Summary, width: int) -> Table:
    """Teacher, baselines and distilled student side by side, on the test split.

    Args:
        summary: with at least one row.
        width: of the terminal, in characters. What does not fit is left out, whole columns in the
            order of `LEAVING`, rather than wrapped or cut; `report.html` has them all.
    """
    rows = [
        cells | {"seconds": f"{row.seconds.mean:,.1f}"}
        for row, cells in zip(summary.rows, summary.cells(), strict=True)
    ]
    title = f"{summary.folder.name}: test split{_over_seeds(summary)}"
    return fitting_table(title, rows, width, LEAVING)


def fitting_table(
    title: str, rows: Sequence[Mapping[str, str]], width: int, leaving: Sequence[str]
) -> Table:
    """A table that a terminal is wide enough for.

    Args:
        title: above it.
        rows: at least one, with the same headings.
        width: of the terminal, in characters.
        leaving: headings of columns that it may go without, the least missed first.
    """
    for gone in range(len(leaving) + 1):
        kept = [{h: t for h, t in row.items() if h not in leaving[:gone]} for row in rows]
        for gap in (3, 2) if gone < 2 else (2, 1):
            table = plain_table(title, kept, gap)
            if _width(table) <= width:
                return table
    return table


def coverage_table(summary: Summary) -> Table | None:
    """Right first choices by the number of specialists with the true class, or None."""
    result = result_of(summary.results, JOINT_SET)
    if result is None:
        return None
    return plain_table(f"{summary.folder.name}: specialists, test split", coverage_rows(result))


def plain_table(title: str, rows: Sequence[Mapping[str, str]], gap: int = 2) -> Table:
    """A table in the style of all of them.

    Args:
        title: above it.
        rows: at least one, with the same headings.
        gap: characters between columns.
    """
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*(Text(text) for text in cells.values()))
    return table


def _over_seeds(summary: Summary) -> str:
    """How many students the figures are of; an unfinished run may have more of one kind."""
    students = [
        row for row in summary.rows if row.name not in ("teacher", "ensemble")
    ] or summary.rows
    counts = [len(row.seconds.values) for row in students]
    if max(counts) == 1:
        return ""
    fewest = "" if min(counts) == max(counts) else f"{min(counts)} to "
    return f", mean ± spread over {fewest}{max(counts)} seeds"


def _width(table: Table) -> int:
    """Columns that a table takes if nothing holds it back."""
    console = Console(width=1000)
    return console.measure(table).maximum


def closing_lines(summary: Summary) -> list[str]:
    """What the tables do not say: the gap, specialists, and what the transfer set cost."""
    return [*specialists_sentences(summary), *summary.sentences()]


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one to a line."""
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(str(value)))
    return table
