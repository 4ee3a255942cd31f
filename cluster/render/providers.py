"""The machines of a launcher's configuration: on AWS, on Google, or one's own.

What runs on them is for `vm`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.render.machine_types import AWS, GCP, machine_for
from cluster.render.options import VmOptions, flag
from cluster.render.shape import Shape
from kd_ray.catalog import pick
from kd_ray.errors import ConfigError

HEAD_CPUS = 4
DISK_GB = 200
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
GOOGLE_IMAGES = "projects/deeplearning-platform-release/global/images/family"
OTHERS = {
    "aws": ("project", "head_ip", "worker_ip"),
    "gcp": ("head_ip", "worker_ip"),
    "local": (
        *("region", "zone", "project", "instance_type", "head_type", "machine_image"),
        *("credentials", "spot"),
    ),
}
"""Options that have no meaning with a provider."""


def machines_of(options: VmOptions, shape: Shape) -> dict[str, Any]:
    """The part of the configuration that says which machines there are.

    Raises:
        ConfigError: an option is missing, or has no meaning with the provider.
    """
    describe = pick("provider", PROVIDERS, options.provider)
    for name in OTHERS[options.provider]:
        if getattr(options, name):
            raise ConfigError(
                f"{flag(name)}: has no meaning with --provider {options.provider}; leave it out"
            )
    return describe(options, shape)


def _two_types(shape: Shape, head: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    return {
        "max_workers": shape.max_nodes,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": head},
            "worker": {
                "min_workers": shape.nodes,
                "max_workers": shape.max_nodes,
                "resources": {"CPU": shape.cpus, "GPU": shape.gpus or None},
                "node_config": worker,
            },
        },
    }


def _aws(options: VmOptions, shape: Shape) -> dict[str, Any]:
    disk = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": DISK_GB, "VolumeType": "gp3"}}]
    every: dict[str, Any] = {
        "ImageId": options.machine_image,
        "IamInstanceProfile": {"Name": options.credentials} if options.credentials else None,
        "BlockDeviceMappings": disk,
    }
    head = {"InstanceType": options.head_type or machine_for(AWS, HEAD_CPUS, 0), **every}
    worker = {
        "InstanceType": options.instance_type or machine_for(AWS, shape.cpus, shape.gpus),
        **every,
        "InstanceMarketOptions": {"MarketType": "spot"} if options.spot else None,
    }
    return {
        "provider": {
            "type": "aws",
            "region": options.region or "us-west-2",
            "availability_zone": options.zone,
            "cache_stopped_nodes": False,
        },
        "auth": {"ssh_user": options.ssh_user or "ubuntu"},
        **_two_types(shape, head, worker),
    }


def _gcp(options: VmOptions, shape: Shape) -> dict[str, Any]:
    if options.project is None:
        raise ConfigError("--project: the id of a Google Cloud project is needed; add it")
    region = options.region or "us-west1"

    def node(kind: str, gpus: int, spot: bool) -> dict[str, Any]:
        family = "common-cu128-ubuntu-2204-nvidia-570" if gpus else "common-cpu"
        source = options.machine_image or f"{GOOGLE_IMAGES}/{family}"
        # Machines with GPUs and spot ones cannot be moved to another host while they run.
        rules = {"onHostMaintenance": "TERMINATE", "preemptible": True if spot else None}
        account = [{"email": options.credentials, "scopes": SCOPES}]
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
            "scheduling": [rules] if gpus or spot else None,
            "serviceAccounts": account if options.credentials else None,
        }

    worker_type = options.instance_type or machine_for(GCP, shape.cpus, shape.gpus)
    return {
        "provider": {
            "type": "gcp",
            "region": region,
            "availability_zone": options.zone or f"{region}-a",
            "project_id": options.project,
            "cache_stopped_nodes": False,
        },
        "auth": {"ssh_user": options.ssh_user or "ubuntu"},
        **_two_types(
            shape,
            node(options.head_type or machine_for(GCP, HEAD_CPUS, 0), 0, False),
            node(worker_type, shape.gpus, options.spot),
        ),
    }


def _local(options: VmOptions, shape: Shape) -> dict[str, Any]:
    if options.head_ip is None or options.ssh_user is None:
        raise ConfigError("--provider local: needs --head-ip and --ssh-user of your machines")
    named = 1 + len(options.worker_ip)
    if named < shape.nodes:
        raise ConfigError(
            f"--worker-ip: the recipe needs {shape.nodes} machines, but --head-ip and --worker-ip "
            f"name {named}; name more, or use more CPUs or GPUs of each"
        )
    return {
        "provider": {
            "type": "local",
            "head_ip": options.head_ip,
            "worker_ips": list(options.worker_ip),
        },
        "auth": {"ssh_user": options.ssh_user},
        "max_workers": len(options.worker_ip),
    }


PROVIDERS: Mapping[str, Callable[[VmOptions, Shape], dict[str, Any]]] = {
    "aws": _aws,
    "gcp": _gcp,
    "local": _local,
}
