"""`kd-ray cluster`: clusters, the jobs that run on them, and manifests."""

import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cluster.commands import COMMANDS
from kd_ray.cli.options import answered, interrupted
from kd_ray.cli.render import render

cluster = typer.Typer(
    name="cluster",
    help="Start clusters, submit jobs to them, write their manifests.",
    no_args_is_help=True,
)

cluster.command("render")(render)

NameOption = Annotated[str, typer.Option(help="Name of a cluster that runs on this machine.")]
JobArgument = Annotated[str, typer.Argument(help="Job, as `jobs` lists them.", metavar="ID")]


@dataclass(frozen=True)
class NodeChoice:
    """The node that this machine becomes, or each of those that it becomes."""

    cpus: Annotated[int | None, typer.Option(help="CPUs that a node counts as having.")] = None
    gpus: Annotated[int | None, typer.Option(help="GPUs that a node counts as having.")] = None
    node_ip: Annotated[
        str | None, typer.Option(help="Address of this machine, as other machines see it.")
    ] = None


@dataclass(frozen=True)
class ClusterAddress:
    """The cluster that a command speaks with: one at an address, or one on this machine."""

    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Head of the cluster, or URL of its dashboard."),
    ] = None
    name: NameOption = "local"

    def dashboard(self) -> str:
        """The URL of its dashboard; raises a `ClusterError` if there is no such cluster."""
        from cluster.local import find
        from cluster.server import dashboard_of
        from kd_ray.errors import ClusterError

        api_server, head = map(os.environ.get, ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
        if address := self.address or api_server or head:
            return dashboard_of(address)
        local = find(self.name)
        if local is None:
            raise ClusterError(
                f"--address: no cluster {self.name!r} is up on this machine; start one with "
                "`kd-ray cluster up`, or give HOST:PORT of a head or http://HOST:PORT of its "
                "dashboard"
            )
        return local.dashboard


@cluster.command()
@answered
def up(
    nodes: Annotated[int, typer.Option(help="Number of nodes, the head among them.")] = 2,
    head: Annotated[
        bool, typer.Option("--head", help="Be the head of real machines, in the foreground.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port that the head listens on, with --head.")] = 6379,
    dashboard_host: Annotated[
        str, typer.Option(help="Address where the dashboard listens, with --head.")
    ] = "127.0.0.1",
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard, with --head.")] = 8265,
    name: NameOption = "local",
    *,
    node: NodeChoice,
) -> None:
    """Start a cluster of several nodes on this machine; with --head, the head of real machines."""
    from cluster import local
    from cluster import nodes as ray_nodes

    if not head:
        started = local.up(nodes, node.cpus, node.gpus, name, typer.echo)
        typer.echo(f"Up: --address {started.address}, dashboard {started.dashboard}")
        which = "" if name == "local" else f" --name {name}"
        typer.echo(f"Logs in {started.folder}; end it with: kd-ray cluster down{which}")
        return
    options = ray_nodes.NodeOptions(node.cpus, node.gpus, node.node_ip)
    command = ray_nodes.head_command(options, port, dashboard_port, dashboard_host)
    typer.echo(f"The token that nodes and clients need: {ray_nodes.provide_token()}")
    become(command)


@cluster.command()
@answered
def join(
    address: Annotated[
        str, typer.Argument(help="HOST:PORT of the cluster's head.", metavar="ADDRESS")
    ],
    *,
    node: NodeChoice,
) -> None:
    """Make this machine a node of a cluster, in the foreground, for a supervisor to restart."""
    from cluster.nodes import NodeOptions, join_command
    from kd_ray.on_ray import check_cluster

    check_cluster(address)
    become(join_command(NodeOptions(node.cpus, node.gpus, node.node_ip), address))


def become(command: list[str]) -> None:
    """Turns this process into a node, so that a supervisor's signals reach it."""
    from cluster.nodes import node_environment

    sys.stdout.flush()
    os.execve(command[0], command, node_environment({}))


@cluster.command()
@answered
def down(name: NameOption = "local") -> None:
    """End a cluster that `up` started on this machine, and nothing else."""
    from cluster import local

    if (ended := local.down(name)) is None:
        typer.echo(f"cluster {name!r}: was not up")
    else:
        again = "what it ran goes on when it is submitted again"
        typer.echo(f"cluster {name!r} at {ended.address}: ended; {again}")


@cluster.command()
@answered
def status(
    job: Annotated[
        str | None, typer.Argument(help="Job to show instead of the cluster.", metavar="ID")
    ] = None,
    *,
    target: ClusterAddress,
) -> None:
    """Show the nodes, resources and jobs of a cluster, or one job."""
    from rich.console import Console

    from cluster import jobs as job_server
    from cluster.server import node_states
    from kd_ray.cli.tables import job_facts, jobs_table, nodes_table

    dashboard = target.dashboard()
    if job is not None:
        Console().print(job_facts(job_server.status(dashboard, job)))
        return
    Console().print(nodes_table(dashboard, node_states(dashboard)))
    if jobs := job_server.jobs(dashboard):
        Console().print(jobs_table(jobs))


@cluster.command("jobs")
@answered
def list_jobs(target: ClusterAddress) -> None:
    """List the jobs of a cluster."""
    from rich.console import Console

    from cluster import jobs as job_server
    from kd_ray.cli.tables import jobs_table

    Console().print(jobs_table(job_server.jobs(target.dashboard())))


@cluster.command()
@answered
def logs(
    job: JobArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing until the job ends.")
    ] = False,
    *,
    target: ClusterAddress,
) -> None:
    """Print what a job has printed."""
    from cluster import jobs as job_server

    dashboard = target.dashboard()
    for part in job_server.follow(dashboard, job) if follow else [job_server.logs(dashboard, job)]:
        typer.echo(part, nl=False)


@cluster.command()
@answered
def stop(job: JobArgument, target: ClusterAddress) -> None:
    """Ask a job to end, and wait until it has; submitted again, it goes on."""
    from cluster import jobs as job_server

    ended = job_server.stop(target.dashboard(), job)
    typer.echo(f"{ended.id}: {ended.status.lower()}")


@cluster.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": False})
@answered
def submit(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(
            help=f"What would follow `kd-ray` here; it begins with {', '.join(COMMANDS)}.",
            metavar="-- COMMAND",
        ),
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the job's progress, and exit with its exit code.")
    ] = False,
    *,
    target: ClusterAddress,
) -> None:
    """Run a command on a cluster: kd-ray cluster submit -- tune run mnist-sweep --trials 32."""
    from cluster import jobs as job_server
    from kd_ray.cli.submitted import travelling

    root: Any = context.find_root().command
    luggage = travelling(root, command)
    dashboard = target.dashboard()
    job = job_server.submit(dashboard, luggage.command, luggage.run, luggage.recipe)
    typer.echo(f"{job.id}: submitted to {dashboard}; it writes {luggage.run}")
    if not wait:
        typer.echo(f"Watch it with: kd-ray cluster logs {job.id} --follow")
        return
    try:
        for part in job_server.follow(dashboard, job.id):
            typer.echo(part, nl=False)
    except KeyboardInterrupt:
        end = f"end it with: kd-ray cluster stop {job.id}"
        raise interrupted(f"{job.id} goes on without being watched; {end}") from None
    ended = job_server.status(dashboard, job.id)
    if ended.status != "SUCCEEDED":
        typer.echo(f"kd-ray: {ended.id}: {ended.status.lower()}: {ended.message}", err=True)
        raise typer.Exit(ended.exit_code or 1)
