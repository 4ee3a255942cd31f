"""The machines of a launcher's configuration: on AWS, on Google, or one's own.

What runs on them is for `vm`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.render.machine_types import AWS, GCP, machine_for
from cluster.render.shape import Shape
from kd_ray.errors import ConfigError

HEAD_CPUS = 4
DISK_GB = 200
GOOGLE_IMAGES = "projects/deeplearning-platform-release/global/images/family"
CLOUD_OPTIONS = (
    *("region", "zone", "instance_type", "head_type", "machine_image", "account", "spot"),
    "ssh_user",
)


@dataclass(frozen=True)
class Place:
    """What the options say about the machines; `vm` describes them one by one."""

    region: str | None
    zone: str | None
    project: str | None
    instance_type: str | None
    head_type: str | None
    machine_image: str | None
    account: str | None
    spot: bool
    ssh_user: str | None
    head_ip: str | None
    worker_ip: tuple[str, ...]


def option_of(key: str) -> str:
    """The option that a key of `Place` comes from."""
    return "--credentials" if key == "account" else f"--{key.replace('_', '-')}"


def _two_types(shape: Shape, head: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    resources = {"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {})
    return {
        "max_workers": shape.max_nodes,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": head},
            "worker": {
                "min_workers": shape.nodes,
                "max_workers": shape.max_nodes,
                "resources": resources,
                "node_config": worker,
            },
        },
    }


def _only(provider: str, place: Place, *options: str) -> None:
    """Refuses options of other providers, which would otherwise be dropped without a word."""
    for key, value in vars(place).items():
        if value and key not in options:
            raise ConfigError(
                f"{option_of(key)}: has no meaning with --provider {provider}; leave it out"
            )


def _aws(place: Place, shape: Shape) -> dict[str, Any]:
    _only("aws", place, *CLOUD_OPTIONS)
    disk = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": DISK_GB, "VolumeType": "gp3"}}]
    every: dict[str, Any] = {
        **({"ImageId": place.machine_image} if place.machine_image else {}),
        **({"IamInstanceProfile": {"Name": place.account}} if place.account else {}),
        "BlockDeviceMappings": disk,
    }
    head = {"InstanceType": place.head_type or machine_for(AWS, HEAD_CPUS, 0), **every}
    worker = {
        "InstanceType": place.instance_type or machine_for(AWS, shape.cpus, shape.gpus),
        **every,
        **({"InstanceMarketOptions": {"MarketType": "spot"}} if place.spot else {}),
    }
    return {
        "provider": {
            "type": "aws",
            "region": place.region or "us-west-2",
            **({"availability_zone": place.zone} if place.zone else {}),
            "cache_stopped_nodes": False,
        },
        "auth": {"ssh_user": place.ssh_user or "ubuntu"},
        **_two_types(shape, head, worker),
    }


def _gcp(place: Place, shape: Shape) -> dict[str, Any]:
    _only("gcp", place, *CLOUD_OPTIONS, "project")
    if place.project is None:
        raise ConfigError("--project: the id of a Google Cloud project is needed; add it")
    region = place.region or "us-west1"

    def node(kind: str, gpus: int, spot: bool) -> dict[str, Any]:
        family = "common-cu128-ubuntu-2204-nvidia-570" if gpus else "common-cpu"
        source = place.machine_image or f"{GOOGLE_IMAGES}/{family}"
        # Machines with GPUs and spot ones cannot be moved to another host while they run.
        rules: dict[str, Any] = {"onHostMaintenance": "TERMINATE"} if gpus or spot else {}
        if spot:
            rules["preemptible"] = True
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        account = [{"email": place.account, "scopes": scopes}]
        return {
            "machineType": kind,
            "disks": [
                {
                    "boot": True,
                    "autoDelete": True,
                    "type": "PERSISTENT",
                    "initializeParams": {"diskSizeGb": DISK_GB, "sourceImage": source},
                }
            ],
            **({"scheduling": [rules]} if rules else {}),
            **({"serviceAccounts": account} if place.account else {}),
        }

    worker_type = place.instance_type or machine_for(GCP, shape.cpus, shape.gpus)
    return {
        "provider": {
            "type": "gcp",
            "region": region,
            "availability_zone": place.zone or f"{region}-a",
            "project_id": place.project,
            "cache_stopped_nodes": False,
        },
        "auth": {"ssh_user": place.ssh_user or "ubuntu"},
        **_two_types(
            shape,
            node(place.head_type or machine_for(GCP, HEAD_CPUS, 0), 0, False),
            node(worker_type, shape.gpus, place.spot),
        ),
    }


def _local(place: Place, shape: Shape) -> dict[str, Any]:
    _only("local", place, "ssh_user", "head_ip", "worker_ip")
    if place.head_ip is None or place.ssh_user is None:
        raise ConfigError("--provider local: needs --head-ip and --ssh-user of your machines")
    named = 1 + len(place.worker_ip)
    if named < shape.nodes:
        raise ConfigError(
            f"--worker-ip: the recipe needs {shape.nodes} machines, but --head-ip and --worker-ip "
            f"name {named}; name more, or use more CPUs or GPUs of each"
        )
    return {
        "provider": {
            "type": "local",
            "head_ip": place.head_ip,
            "worker_ips": list(place.worker_ip),
        },
        "auth": {"ssh_user": place.ssh_user},
        "max_workers": len(place.worker_ip),
    }


PROVIDERS: Mapping[str, Callable[[Place, Shape], dict[str, Any]]] = {
    "aws": _aws,
    "gcp": _gcp,
    "local": _local,
}
