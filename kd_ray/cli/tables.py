"""Tables that commands print."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.report.summary import Summary

LEAVING = ("calibration error %", "seeds", "parameters", "seconds", "agreement %")
"""Columns that a narrow terminal goes without, the least missed first."""


def closing_table(summary: Summary, width: int) -> Table:
    """Teacher, baselines and distilled student side by side, on the test split.

    Args:
        summary: with at least one row.
        width: of the terminal, in characters. What does not fit is left out, whole columns in the
            order of `LEAVING`, rather than wrapped or cut; `report.html` has them all.
    """
    for gone in range(len(LEAVING)):
        for gap in (3, 2) if gone < 2 else (2, 1):
            table = _table(summary, LEAVING[:gone], gap)
            if _width(table) <= width:
                return table
    return _table(summary, LEAVING, gap=1)


def _table(summary: Summary, without: tuple[str, ...], gap: int) -> Table:
    rows = [
        {
            heading: text
            for heading, text in (row.cells() | {"seconds": f"{row.seconds.mean:,.1f}"}).items()
            if heading not in without
        }
        for row in summary.rows
    ]
    table = Table(
        title=Text(f"{summary.folder.name}: test split{_over_seeds(summary)}", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(text) for text in row.values()))
    return table


def _over_seeds(summary: Summary) -> str:
    """How many students the figures are of; an unfinished run may have more of one kind."""
    students = [row for row in summary.rows if row.name != "teacher"] or summary.rows
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
    """What the table does not say: the gap, and what the transfer set cost."""
    return summary.sentences()


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one to a line."""
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(str(value)))
    return table
