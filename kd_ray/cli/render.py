"""`kd-ray cluster render`: the manifest of a cluster, from a recipe's `[resources]`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kd_ray.cli.options import RecipeArgument, SetOption, answered

NODES, KUBERAY, SLURM, MACHINES = "Nodes", "kuberay", "slurm", "vm"


def _option(flag: str, about: str, panel: str | None = None, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=about, rich_help_panel=panel, metavar=metavar)


@answered
def render(
    kind: Annotated[str, typer.Argument(help="kuberay, slurm or vm.", metavar="KIND")],
    recipe: RecipeArgument,
    overrides: SetOption = None,
    command: Annotated[
        str, _option("--command", "run, 'tune run', exercises, views, teach, label or distill.")
    ] = "run",
    runs: Annotated[
        str | None, _option("--runs", "Storage that all nodes reach: a path or a URL.")
    ] = None,
    data: Annotated[
        str | None, _option("--data", "Folder of datasets on the nodes, as KD_RAY_DATA.")
    ] = None,
    out: Annotated[
        Path | None, _option("--out", "File to write; else the manifest is printed.")
    ] = None,
    image: Annotated[
        str | None, _option("--image", "Container image with Ray and kd-ray (not slurm).")
    ] = None,
    package: Annotated[
        str | None,
        _option("--package", "pip installs this on the nodes: a URL of kd-ray (not slurm)."),
    ] = None,
    spot: Annotated[bool, _option("--spot", "Workers on spot machines (not slurm).")] = False,
    setup: Annotated[
        list[str] | None,
        _option("--setup", "Command for the nodes' shell, first of all; repeatable (not kuberay)."),
    ] = None,
    mount: Annotated[
        str | None, _option("--mount", "Where nodes see shared storage: /shared (not slurm).")
    ] = None,
    credentials: Annotated[
        str | None,
        _option(
            "--credentials",
            "Of an object store, by name: a Kubernetes secret of variables, an AWS instance "
            "profile, a Google service account.",
        ),
    ] = None,
    nodes: Annotated[int | None, _option("--nodes", "To start with.", NODES)] = None,
    max_nodes: Annotated[
        int | None, _option("--max-nodes", "That autoscaling may grow to.", NODES)
    ] = None,
    cpus: Annotated[
        int | None,
        _option("--cpus-per-node", "Else enough for its workers; 4 for each if auto.", NODES),
    ] = None,
    gpus: Annotated[
        int | None, _option("--gpus-per-node", "Else those of one worker; 1 if auto.", NODES)
    ] = None,
    memory: Annotated[
        int | None, _option("--memory-per-node", "GiB (not vm).", NODES, "GIB")
    ] = None,
    volume: Annotated[
        str | None, _option("--volume", "Volume claim of shared storage: kd-ray.", KUBERAY)
    ] = None,
    token_secret: Annotated[
        str | None,
        _option("--token-secret", "Has Ray's token as auth_token; else KubeRay's own.", KUBERAY),
    ] = None,
    namespace: Annotated[str | None, _option("--namespace", "Of the job.", KUBERAY)] = None,
    node_label: Annotated[
        list[str] | None,
        _option("--node-label", "That nodes must have; repeatable.", KUBERAY, "KEY=VALUE"),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        _option("--sbatch", "A directive, such as partition=gpu; repeatable.", SLURM),
    ] = None,
    provider: Annotated[
        str | None, _option("--provider", "aws, gcp, or local for own machines.", MACHINES)
    ] = None,
    region: Annotated[str | None, _option("--region", "Of the cloud.", MACHINES)] = None,
    zone: Annotated[str | None, _option("--zone", "In the region.", MACHINES)] = None,
    project: Annotated[str | None, _option("--project", "Of gcp.", MACHINES)] = None,
    instance_type: Annotated[
        str | None, _option("--instance-type", "Of workers; else the smallest.", MACHINES)
    ] = None,
    head_type: Annotated[str | None, _option("--head-type", "Of the head.", MACHINES)] = None,
    machine_image: Annotated[
        str | None, _option("--machine-image", "AMI, or Google's image.", MACHINES)
    ] = None,
    ssh_user: Annotated[str | None, _option("--ssh-user", "Else ubuntu.", MACHINES)] = None,
    ssh_key: Annotated[str | None, _option("--ssh-key", "Path of a key.", MACHINES)] = None,
    head_ip: Annotated[str | None, _option("--head-ip", "Of local.", MACHINES)] = None,
    worker_ip: Annotated[
        list[str] | None, _option("--worker-ip", "Of local; repeatable.", MACHINES)
    ] = None,
) -> None:
    """Write the manifest of a cluster that runs a recipe: KubeRay, Slurm or Ray's launcher."""
    from cluster.render import render as rendered
    from kd_ray.errors import ConfigError
    from kd_ray.files import committed_file

    options = {
        "image": image,
        "spot": spot or None,
        "setup": _all(setup),
        "mount": mount,
        "credentials": credentials,
        "volume": volume,
        "token_secret": token_secret,
        "namespace": namespace,
        "node_label": _all(node_label),
        "sbatch": _all(sbatch),
        "provider": provider,
        "region": region,
        "zone": zone,
        "project": project,
        "instance_type": instance_type,
        "head_type": head_type,
        "machine_image": machine_image,
        "ssh_user": ssh_user,
        "ssh_key": ssh_key,
        "head_ip": head_ip,
        "worker_ip": _all(worker_ip),
    }
    text = rendered(
        kind,
        recipe,
        overrides or [],
        command=command,
        runs=runs,
        data=data,
        package=package,
        cpus_per_node=cpus,
        gpus_per_node=gpus,
        memory_per_node=memory,
        nodes=nodes,
        max_nodes=max_nodes,
        **{name: value for name, value in options.items() if value is not None},
    )
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: must be a file in a folder that exists; name another one")
    with committed_file(out) as draft:
        draft.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: written", err=True)


def _all(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None
