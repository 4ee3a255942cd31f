"""`kd-ray cluster`: clusters, the jobs that run on them, and manifests."""

import os
import sys
from typing import Annotated, Any

import typer

from kd_ray.cli.options import AddressOption, answered
from kd_ray.cli.render import render

cluster = typer.Typer(
    name="cluster",
    help="Start clusters, submit jobs to them, write their manifests.",
    no_args_is_help=True,
)

cluster.command("render")(render)

NameOption = Annotated[str, typer.Option("--name", help="To have several on this machine.")]
CpusOption = Annotated[int | None, typer.Option("--cpus", help="CPUs that a node counts as.")]
GpusOption = Annotated[int | None, typer.Option("--gpus", help="GPUs that a node counts as.")]
IpOption = Annotated[
    str | None, typer.Option("--node-ip", help="Own address, as other machines see it.")
]
JobArgument = Annotated[str, typer.Argument(help="Of a job; `jobs` lists them.", metavar="ID")]


def dashboard_at(address: str | None, name: str = "local") -> str:
    """The dashboard of the cluster that a command means: at an address, or the local one.

    Raises:
        ClusterError: there is none.
    """
    from cluster.local import find
    from cluster.server import dashboard_of
    from kd_ray.errors import ClusterError

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if address:
        return dashboard_of(address)
    found = find(name)
    if found is None:
        raise ClusterError(
            "--address: must be given, as no cluster is up on this machine; start one with "
            "`kd-ray cluster up`, or give HOST:PORT of a head or http://HOST:PORT of its dashboard"
        )
    return found.dashboard


@cluster.command()
@answered
def up(
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes, the head among them.")] = 2,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    name: NameOption = "local",
    head: Annotated[
        bool, typer.Option("--head", help="The head of real machines, in the foreground.")
    ] = False,
    port: Annotated[int, typer.Option("--port", help="Of a head.")] = 6379,
    dashboard_host: Annotated[
        str, typer.Option("--dashboard-host", help="Where a head's dashboard listens.")
    ] = "127.0.0.1",
    dashboard_port: Annotated[int, typer.Option("--dashboard-port", help="Of a head.")] = 8265,
    node_ip: IpOption = None,
) -> None:
    """Start a cluster of several nodes on this machine; with --head, the head of real machines."""
    from cluster import local
    from cluster import nodes as ray_nodes

    if not head:
        started = local.up(nodes, cpus=cpus, gpus=gpus, name=name, listener=typer.echo)
        typer.echo(f"Up: --address {started.address}, dashboard {started.dashboard}")
        typer.echo(f"Logs in {started.folder}; end it with: kd-ray cluster down", nl=False)
        typer.echo("" if name == "local" else f" --name {name}")
        return
    machine = ray_nodes.NodeOptions(cpus=cpus, gpus=gpus, ip=node_ip)
    command = ray_nodes.head_command(
        machine, port=port, dashboard_port=dashboard_port, dashboard_host=dashboard_host
    )
    typer.echo(f"The token that nodes and clients need: {ray_nodes.provide_token()}")
    become(command)


@cluster.command()
@answered
def join(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the head.", metavar="ADDRESS")],
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    node_ip: IpOption = None,
) -> None:
    """Make this machine a node of a cluster, in the foreground, for a supervisor to restart."""
    from cluster import nodes as ray_nodes
    from kd_ray.on_ray import check_cluster

    check_cluster(address)
    become(ray_nodes.join_command(ray_nodes.NodeOptions(cpus=cpus, gpus=gpus, ip=node_ip), address))


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

    ended = local.down(name)
    typer.echo(
        f"cluster {name!r}: was not up"
        if ended is None
        else f"cluster {name!r} at "
        f"{ended.address}: ended; what it ran goes on when it is submitted again"
    )


@cluster.command()
@answered
def status(
    job: Annotated[str | None, typer.Argument(help="A job, instead.", metavar="ID")] = None,
    address: AddressOption = None,
    name: NameOption = "local",
) -> None:
    """Nodes, resources and jobs of a cluster; or one job."""
    from rich.console import Console

    from cluster import jobs as job_server
    from cluster.server import node_states
    from kd_ray.cli.cluster_tables import job_facts, jobs_table, nodes_table

    dashboard = dashboard_at(address, name)
    if job is not None:
        Console().print(job_facts(job_server.status(dashboard, job)))
        return
    Console().print(nodes_table(dashboard, node_states(dashboard)))
    if found := job_server.jobs(dashboard):
        Console().print(jobs_table(found))


@cluster.command("jobs")
@answered
def list_jobs(address: AddressOption = None, name: NameOption = "local") -> None:
    """List the jobs of a cluster."""
    from rich.console import Console

    from cluster import jobs as job_server
    from kd_ray.cli.cluster_tables import jobs_table

    Console().print(jobs_table(job_server.jobs(dashboard_at(address, name))))


@cluster.command()
@answered
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
    address: AddressOption = None,
    name: NameOption = "local",
) -> None:
    """Print what a job has printed."""
    from cluster import jobs as job_server

    dashboard = dashboard_at(address, name)
    parts = job_server.follow(dashboard, job) if follow else [job_server.logs(dashboard, job)]
    for part in parts:
        typer.echo(part, nl=False)


@cluster.command()
@answered
def stop(job: JobArgument, address: AddressOption = None, name: NameOption = "local") -> None:
    """Ask a job to end, and wait until it has; submitted again, it goes on."""
    from cluster import jobs as job_server

    ended = job_server.stop(dashboard_at(address, name), job)
    typer.echo(f"{ended.id}: {ended.status.lower()}")


@cluster.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": False})
@answered
def submit(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(help="What would follow `kd-ray` here.", metavar="-- COMMAND"),
    ],
    address: AddressOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show its progress; exit with its exit code.")
    ] = False,
    name: NameOption = "local",
) -> None:
    """Run a command on a cluster: kd-ray cluster submit -- tune run mnist --trials 32."""
    from cluster import jobs as job_server
    from kd_ray.cli.submitted import travelling

    root: Any = context.find_root().command
    luggage = travelling(root, command)
    dashboard = dashboard_at(address, name)
    job = job_server.submit(dashboard, luggage.command, luggage.run, luggage.recipe)
    typer.echo(f"{job.id}: submitted to {dashboard}; it writes {luggage.run}")
    if not wait:
        typer.echo(f"Watch it with: kd-ray cluster logs {job.id} --follow")
        return
    try:
        for part in job_server.follow(dashboard, job.id):
            typer.echo(part, nl=False)
    except KeyboardInterrupt:
        typer.echo(
            f"\nkd-ray: {job.id} goes on without being watched; end it with: "
            f"kd-ray cluster stop {job.id}",
            err=True,
        )
        raise typer.Exit(130) from None
    ended = job_server.status(dashboard, job.id)
    if ended.status != "SUCCEEDED":
        typer.echo(f"kd-ray: {ended.id}: {ended.status.lower()}: {ended.message}", err=True)
        raise typer.Exit(ended.exit_code or 1)
