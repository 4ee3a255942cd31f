"""A cluster of virtual or own machines, for Ray's cluster launcher (`ray up`).

On AWS and Google the head is a small machine without work of its own and never a spot one. On own
machines the head works too, and all that are named are used.
"""

from typing import NamedTuple

from cluster.render.manifest import manifest
from cluster.render.options import VmOptions, flag
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    is_url,
    script,
    shared_folders,
)
from kd_ray.catalog import pick
from kd_ray.errors import ConfigError


class MachineType(NamedTuple):
    """A machine type, ordered by GPUs, then CPUs."""

    gpus: int
    cpus: int
    name: str


AWS = [
    *(MachineType(0, 2 * n, f"m6i.{size}") for n, size in [(1, "large"), (2, "xlarge")]),
    *(MachineType(0, 4 * n, f"m6i.{n}xlarge") for n in (2, 4, 8, 16)),
    MachineType(1, 4, "g5.xlarge"),
    *(MachineType(1, 4 * n, f"g5.{n}xlarge") for n in (2, 4, 8, 16)),
    MachineType(4, 48, "g5.12xlarge"),
    MachineType(8, 192, "g5.48xlarge"),
]
GCP = [
    *(MachineType(0, n, f"n2-standard-{n}") for n in (2, 4, 8, 16, 32, 64)),
    *(MachineType(1, n, f"g2-standard-{n}") for n in (4, 8, 12, 16, 32)),
    MachineType(2, 24, "g2-standard-24"),
    MachineType(4, 48, "g2-standard-48"),
    MachineType(8, 96, "g2-standard-96"),
]
HEAD_CPUS = 4
DISK_GB = 200
MACHINES = {"aws": AWS, "gcp": GCP}
WITHOUT_MEANING = {
    "aws": ("project", "head_ip", "worker_ip"),
    "gcp": ("head_ip", "worker_ip"),
    "local": (
        *("region", "zone", "project", "instance_type", "head_type", "machine_image"),
        *("credentials", "spot"),
    ),
}
"""Options that have no meaning with a provider."""


def vm(workload: Workload, shape: Shape, options: VmOptions) -> str:
    """The launcher's configuration, with recipe and script among the head's set-up commands.

    Runs are kept in `runs` of the shared storage unless the workload says otherwise.
    """
    _check(shape, options)
    own = options.provider == "local"
    head_type = worker_type = None
    if machines := MACHINES.get(options.provider):
        head_type = options.head_type or machine_for(machines, HEAD_CPUS, 0)
        worker_type = options.instance_type or machine_for(machines, shape.cpus, shape.gpus)
    image = options.image or (None if own else default_image(options.package, shape.gpus))
    runs = workload.runs or f"{options.mount}/runs"
    return manifest(
        "vm.yaml",
        workload,
        shape,
        options=options,
        name=dns_name(workload.name),
        own=own,
        head_type=head_type,
        worker_type=worker_type,
        disk_gb=DISK_GB,
        image=image,
        runs=runs,
        data=workload.data or (None if is_url(runs) else f"{options.mount}/data"),
        # A container sees nothing but the shared storage; machines may have more than one.
        folders=shared_folders(workload, runs, options.mount if image else "/"),
        # The home folder is not known here, so the recipe is named relative to it.
        script=script(workload, "kd-ray/recipe.toml", runs, [". ~/kd-ray/environment.sh", "cd"]),
    )


def _check(shape: Shape, options: VmOptions) -> None:
    """Refuses options that are missing, or have no meaning with the provider."""
    if shape.memory_gib is not None:
        raise ConfigError(
            f"--memory-per-node: machines come with their memory, but got {shape.memory_gib}; "
            "choose one with --instance-type"
        )
    for name in pick("provider", WITHOUT_MEANING, options.provider):
        if getattr(options, name):
            raise ConfigError(
                f"{flag(name)}: has no meaning with --provider {options.provider}; leave it out"
            )
    if options.provider == "gcp" and options.project is None:
        raise ConfigError("--project: the id of a Google Cloud project is needed; add it")
    if options.provider == "local":
        if options.head_ip is None or options.ssh_user is None:
            raise ConfigError("--provider local: needs --head-ip and --ssh-user of your machines")
        named = 1 + len(options.worker_ip)
        if named < shape.nodes:
            raise ConfigError(
                f"--worker-ip: the recipe needs {shape.nodes} machines, but --head-ip and "
                f"--worker-ip name {named}; name more, or use more CPUs or GPUs of each"
            )


def machine_for(machines: list[MachineType], cpus: int, gpus: int) -> str:
    """The smallest machine that has these; raises a `ConfigError` if there is none.

    >>> machine_for(AWS, cpus=6, gpus=1), machine_for(GCP, cpus=4, gpus=0)
    ('g5.2xlarge', 'n2-standard-4')
    """
    for machine in sorted(machines):
        if machine.cpus >= cpus and machine.gpus >= gpus and bool(machine.gpus) == bool(gpus):
            return machine.name
    raise ConfigError(
        f"--instance-type: no known machine has {cpus} CPUs and {gpus} GPUs; name one that does, "
        "or use more and smaller nodes"
    )
