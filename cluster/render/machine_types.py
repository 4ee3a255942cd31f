"""Machine types of the clouds, for manifests that name none: the smallest with enough of each."""

from typing import NamedTuple

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


def machine_for(machines: list[MachineType], cpus: int, gpus: int) -> str:
    """The smallest machine that has these.

    >>> machine_for(AWS, cpus=6, gpus=1), machine_for(GCP, cpus=4, gpus=0)
    ('g5.2xlarge', 'n2-standard-4')

    Raises:
        ConfigError: there is none.
    """
    for machine in sorted(machines):
        if machine.cpus >= cpus and machine.gpus >= gpus and bool(machine.gpus) == bool(gpus):
            return machine.name
    raise ConfigError(
        f"--instance-type: no known machine has {cpus} CPUs and {gpus} GPUs; name one that does, "
        "or use more and smaller nodes"
    )
