"""Tables that commands print."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from kd_ray.report.summary import Row, Summary

LABELS = {
    "teacher": "teacher",
    "labels": "student on labels",
    "smoothing": "student, label smoothing",
    "softened-labels": "student, labels at T",
    "distilled": "student distilled",
}


def closing_table(summary: Summary) -> Table:
    """Teacher, baselines and distilled student side by side, on the test split."""
    table = Table(title=f"{summary.folder.name}: test split, mean ± spread over seeds")
    table.add_column("model")
    for heading in ("seeds", "accuracy %", "errors", "agreement %", "parameters", "seconds"):
        table.add_column(heading, justify="right")
    for row in summary.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    agreement = row.metrics.get("agreement")
    return [
        LABELS.get(row.name, row.name),
        str(len(row.seconds.values)),
        _percent(row, "accuracy"),
        row.metrics["errors"].shown(1 if len(row.seconds.values) > 1 else 0),
        _percent(row, "agreement") if agreement else "-",
        f"{row.parameters:,}",
        row.seconds.shown(1),
    ]


def _percent(row: Row, metric: str) -> str:
    figure = row.metrics[metric]
    spread = "" if figure.spread is None else f" ± {100 * figure.spread:.2f}"
    return f"{100 * figure.mean:.2f}{spread}"


def closing_lines(summary: Summary) -> list[str]:
    """What the table does not say: the gap, and what the transfer set cost."""
    lines = []
    gap = summary.gap_closed
    if gap is not None:
        lines.append(f"Gap closed: {gap:.0%} of the errors between hard labels and the teacher.")
    stored = summary.transfer_set
    if stored is not None:
        lines.append(
            f"Transfer set: {stored['rows']:,.0f} rows, {stored['bytes'] / 1e6:.1f} MB, labelled "
            f"in {stored['seconds']:.1f} s."
        )
    return lines


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one to a line."""
    table = Table(title=title, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, str(value))
    return table
