"""A cluster of virtual or own machines, for Ray's cluster launcher (`ray up`).

On AWS and Google the head is a small machine without work of its own and never a spot one. On own
machines the head works too, and all that are named are used.
"""

import re
import shlex
from typing import Any

from cluster.render.manifest import manifest
from cluster.render.providers import PROVIDERS, Place, option_of
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    is_url,
    kd_ray_version,
    one_line,
    ray_version,
    script,
    shared_folders,
)
from kd_ray.catalog import pick
from kd_ray.errors import ConfigError

FILES = "~/kd-ray"
TOKEN = "~/.ray/auth_token"  # where Ray looks for it on any machine
ENTER = f". {FILES}/environment.sh;"  # each command of the launcher has a shell of its own
# A Ray Job goes on when the connection that started it breaks.
START = f"""\
{ENTER.rstrip(";")}
exec ray job submit --address http://127.0.0.1:8265 -- bash {FILES}/job.sh
"""
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9:/@._-]*")


def vm(
    job: Workload,
    shape: Shape,
    *,
    provider: str = "aws",
    image: str | None = None,
    spot: bool = False,
    mount: str = "/shared",
    credentials: str | None = None,
    region: str | None = None,
    zone: str | None = None,
    project: str | None = None,
    instance_type: str | None = None,
    head_type: str | None = None,
    machine_image: str | None = None,
    ssh_user: str | None = None,
    ssh_key: str | None = None,
    head_ip: str | None = None,
    worker_ip: tuple[str, ...] = (),
    setup: tuple[str, ...] = (),
) -> str:
    """The launcher's configuration, with recipe and script among the head's set-up commands.

    Args:
        job: what to run; its runs are kept in `/shared/runs` unless it says otherwise.
        shape: nodes, each of which is a machine.
        provider: aws, gcp, or local for own machines.
        image: of a container on each machine; none on own machines unless it is named.
        spot: workers are spot machines.
        mount: of the shared storage, which the machines must have unless all is kept at URLs.
        credentials: instance profile (AWS) or service account (Google) of the machines.
        region: of the cloud.
        zone: in the region.
        project: on Google.
        instance_type: of workers.
        head_type: of the head.
        machine_image: AMI, or Google's image.
        ssh_user: who logs in on the machines.
        ssh_key: path of the private key; None for the launcher's own.
        head_ip: of own machines.
        worker_ip: the others of own machines.
        setup: commands for the shell of each machine, before every command of the cluster.

    Raises:
        ConfigError: an option breaks a rule.
    """
    place = Place(
        region=region,
        zone=zone,
        project=project,
        instance_type=instance_type,
        head_type=head_type,
        machine_image=machine_image,
        account=credentials,
        spot=spot,
        ssh_user=ssh_user,
        head_ip=head_ip,
        worker_ip=worker_ip,
    )
    for key, value in vars(place).items():
        for text in value if isinstance(value, tuple) else [value]:
            if isinstance(text, str) and not IDENTIFIER.fullmatch(text):
                raise ConfigError(
                    f"{option_of(key)}: must be a name or an address, but got {text!r}"
                )
    if shape.memory_gib is not None:
        raise ConfigError(
            f"--memory-per-node: machines come with their memory, but got {shape.memory_gib}; "
            "choose one with --instance-type"
        )
    for command in setup:
        one_line("--setup", command)
    own = provider == "local"
    machines = pick("provider", PROVIDERS, provider)(place, shape)
    if not own or image is not None:
        image = one_line("--image", image or default_image(job, shape.gpus))
    runs = job.runs or f"{mount}/runs"
    # A container sees nothing but the shared storage; machines may have more than one.
    folders = shared_folders(job, runs, mount if image else "/")
    name = dns_name(job.name)
    variables = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    data = job.data or (None if is_url(runs) else f"{mount}/data")
    if data:
        variables["KD_RAY_DATA"] = data
    environment = [
        "set -e",
        *setup,
        f"export {shlex.join(f'{key}={value}' for key, value in variables.items())}",
        f"export RAY_AUTH_TOKEN_PATH={TOKEN}",
        "unset RAY_AUTH_TOKEN",  # of the user's shell; it would go before the file
    ]
    held = f"--num-cpus={shape.cpus} --num-gpus={shape.gpus} " if own else ""
    start = f"{ENTER} ulimit -n 65536 || true; ray start --disable-usage-stats {held}"
    config: dict[str, Any] = {
        "cluster_name": name,
        **machines,
        "auth": {
            **machines["auth"],
            **({"ssh_private_key": one_line("--ssh-key", ssh_key)} if ssh_key else {}),
        },
        "idle_timeout_minutes": 10,
        **({"docker": _container(image, mount, folders)} if image else {}),
        "file_mounts": {TOKEN: TOKEN},
        "cluster_synced_files": [],
        "setup_commands": [
            f"mkdir -p {FILES}",
            _writes("environment.sh", "\n".join([*environment, ""])),
            *_checks(job, folders),
        ],
        "head_setup_commands": [
            _writes("recipe.toml", job.recipe),
            # The home folder is not known here, so the recipe is named relative to it.
            _writes("job.sh", script(job, "kd-ray/recipe.toml", runs, [ENTER.rstrip(";"), "cd"])),
            _writes("start.sh", START),
        ],
        "head_start_ray_commands": [
            f"{ENTER} ray stop",
            f"{start}--head --port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            f"{ENTER} ray stop",
            f"{start}--address=$RAY_HEAD_IP:6379",
        ],
    }
    return manifest(_header(job, image, provider, runs, folders, place), config)


def _writes(name: str, text: str) -> str:
    """The command that writes a file of `text` on a node."""
    return f"printf %s {shlex.quote(text)} > {FILES}/{name}"


def _checks(job: Workload, folders: list[str]) -> list[str]:
    """Each node proves that it has what it needs before Ray starts on it."""
    commands = []
    if job.package is not None:
        wanted = shlex.join([f"ray[default,train,tune]=={ray_version()}", job.package])
        commands.append(f"{ENTER} python -m pip install --quiet {wanted}")
    sentence = "kd-ray: nodes must have kd-ray and its Ray; use --image, --package or --setup"
    commands.append(
        f'{ENTER} python -c "import kd_ray, ray; assert ray.__version__ == '
        f"'{ray_version()}'\" || {{ echo '{sentence}'; exit 1; }}"
    )
    for folder in folders:
        quoted = shlex.quote(folder)
        sentence = "kd-ray: shared storage must be mounted and writable there:"
        commands.append(
            f"mkdir -p {quoted} && test -w {quoted} || {{ echo '{sentence}' {quoted}; exit 1; }}"
        )
    return commands


def _container(image: str, mount: str, folders: list[str]) -> dict[str, Any]:
    shared = [f"--volume {shlex.quote(f'{mount}:{mount}')}"] if folders else []
    return {
        "image": image,
        "container_name": "kd-ray",
        "run_options": ["--ulimit nofile=65536:65536", *shared],
    }


def _header(
    job: Workload, image: str | None, provider: str, runs: str, folders: list[str], place: Place
) -> list[str]:
    version = kd_ray_version()
    holder = f"Image: {image}" if image else "Machines"
    package = f"get {job.package}" if job.package else f"hold kd-ray {version}"
    lines = [
        f"Recipe {job.name!r} for Ray's cluster launcher, provider {provider}.",
        f"  ray get-auth-token --generate   # once: makes {TOKEN}, which all nodes share",
        "  ray up FILE",
        f"  ray exec FILE 'bash {FILES}/start.sh'   # the same again goes on where it was",
        "  ray down FILE",
        f"{holder}, with Ray {ray_version()}; must {package}.",
        f"Runs: {runs}" + ("; mounted on every machine already." if folders else "."),
    ]
    if provider == "local":
        lines.append("`ray up` ends any other Ray of this user on these machines.")
    elif place.machine_image is None:
        lines.append("No --machine-image was named: see that the default has a driver for the GPU.")
    return lines
