"""Tables that commands print."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kd_ray.cli.wording import duration
from kd_ray.report.specialists import coverage_rows, result_of
from kd_ray.report.summary import Summary
from kd_ray.result import JOINT_SET

if TYPE_CHECKING:
    from cluster.jobs import Job
    from cluster.server import NodeState

LEAVING = (
    *("calibration error %", "seeds", "parameters", "bit operations", "seconds"),
    *("agreement %", "size"),
)
"""Columns that a narrow terminal goes without, the least missed first."""


def closing_table(summary: Summary, width: int) -> Table:
    """Teacher, baselines and distilled student side by side, on the test split.

    What does not fit a terminal of `width` characters is left out, whole columns in the order of
    `LEAVING`, rather than wrapped or cut; `report.html` has them all.
    """
    rows = [
        cells | ({"seconds": f"{row.seconds.mean:,.1f}"} if row.parameters else {})
        for row, cells in zip(summary.rows, summary.cells(), strict=True)
    ]
    title = f"{summary.folder.name}: test split{_over_seeds(summary)}"
    return fitting_table(title, rows, width, LEAVING)


def fitting_table(
    title: str, rows: Sequence[Mapping[str, str]], width: int, leaving: Sequence[str]
) -> Table:
    """A `plain_table` that a terminal of `width` characters holds.

    It goes without the columns whose headings are in `leaving`, the least missed first.
    """
    for gone in range(len(leaving) + 1):
        kept = [{h: t for h, t in row.items() if h not in leaving[:gone]} for row in rows]
        for gap in (3, 2) if gone < 2 else (2, 1):
            table = plain_table(title, kept, gap)
            if Console(width=1000).measure(table).maximum <= width:
                return table
    return table


def coverage_table(summary: Summary) -> Table | None:
    """Right first choices by the number of specialists with the true class, or None."""
    result = result_of(summary.results, JOINT_SET)
    if result is None:
        return None
    return plain_table(f"{summary.folder.name}: specialists, test split", coverage_rows(result))


def plain_table(title: str, rows: Sequence[Mapping[str, str]], gap: int = 2) -> Table:
    """A table of at least one row, all with the same headings, `gap` characters between columns."""
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
    students = [row for row in summary.rows if row.name not in ("teacher", "ensemble")]
    counts = [len(row.seconds.values) for row in students or summary.rows]
    if max(counts) == 1:
        return ""
    fewest = "" if min(counts) == max(counts) else f"{min(counts)} to "
    return f", mean ± spread over {fewest}{max(counts)} seeds"


def facts(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one to a line."""
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(str(value)))
    return table


def nodes_table(dashboard: str, nodes: Sequence["NodeState"]) -> Table:
    """The nodes of a cluster; dead ones with what is known of their death."""
    alive = [node for node in nodes if node.alive]
    resources: Counter[str] = Counter()
    for node in alive:
        resources.update(node.resources)
    rows = []
    for node in nodes:
        about = "head" if node.is_head else "" if node.alive else node.why
        rows.append((node.ip, "up" if node.alive else "dead", _amounts(node.resources), about))
    title = f"{dashboard}: {len(alive)} nodes, {_amounts(resources)}"
    return _folding_table(title, ("node", "state", "resources", ""), rows)


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items())) or "none"


def jobs_table(jobs: Sequence["Job"]) -> Table:
    """Jobs, the oldest first."""
    rows = [(job.id, job.status.lower(), *_times(job), job.command) for job in jobs]
    return _folding_table(f"{len(jobs)} jobs", ("job", "state", "began", "took", "command"), rows)


def _folding_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def job_facts(job: "Job") -> Table:
    """One job."""
    began, took = _times(job)
    values = {
        "state": job.status.lower(),
        "command": f"kd-ray {job.command}",
        "run": job.run,
        "began": began,
        "took": took,
        "exit code": "" if job.exit_code is None else job.exit_code,
        "the server says": job.message,
    }
    return facts(f"job {job.id}", values)


def _times(job: "Job") -> tuple[str, str]:
    """When a job began, and how long it took."""
    if job.started is None:
        return "", ""
    began = datetime.fromtimestamp(job.started).astimezone().isoformat(" ", "seconds")
    return began, "" if job.ended is None else duration(job.ended - job.started)
