"""Tables of nodes and jobs."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from cluster.jobs import Job
from cluster.server import NodeState
from kd_ray.cli.tables import facts
from kd_ray.cli.wording import duration


def nodes_table(dashboard: str, nodes: Sequence[NodeState]) -> Table:
    """The nodes of a cluster; dead ones with what is known of their death."""
    alive = [node for node in nodes if node.alive]
    sums: dict[str, float] = {}
    for node in alive:
        for name, amount in node.resources.items():
            sums[name] = sums.get(name, 0) + amount
    table = Table(title=f"{dashboard}: {len(alive)} nodes, {_amounts(sums)}", title_justify="left")
    for column in ("node", "state", "resources", ""):
        table.add_column(column, overflow="fold")
    for node in nodes:
        table.add_row(
            Text(node.ip),
            "up" if node.alive else "dead",
            _amounts(node.resources),
            Text("head" if node.is_head else node.why if not node.alive else ""),
        )
    return table


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items())) or "none"


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Jobs, the oldest first."""
    table = Table(title=f"{len(jobs)} jobs", title_justify="left")
    for column in ("job", "state", "began", "took", "command"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        table.add_row(Text(job.id), job.status.lower(), _began(job), _took(job), Text(job.command))
    return table


def job_facts(job: Job) -> Table:
    """One job."""
    return facts(
        f"job {job.id}",
        {
            "state": job.status.lower(),
            "command": f"kd-ray {job.command}",
            "run": job.run,
            "began": _began(job),
            "took": _took(job),
            "exit code": "" if job.exit_code is None else job.exit_code,
            "the server says": job.message,
        },
    )


def _began(job: Job) -> str:
    if job.started is None:
        return ""
    return datetime.fromtimestamp(job.started).astimezone().isoformat(" ", "seconds")


def _took(job: Job) -> str:
    if job.started is None or job.ended is None:
        return ""
    return duration(job.ended - job.started)
