"""A cluster of virtual or own machines, for Ray's cluster launcher (`ray up`).

On AWS and Google the head is a small machine without work of its own and never a spot one. On own
machines the head works too, and all that are named are used.
"""

import shlex
from typing import Any

from cluster.render.manifest import manifest
from cluster.render.options import VmOptions
from cluster.render.providers import machines_of
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    is_url,
    kd_ray_version,
    ray_version,
    script,
    shared_folders,
)
from kd_ray.errors import ConfigError

FILES = "~/kd-ray"
TOKEN = "~/.ray/auth_token"  # where Ray looks for it on any machine
ENTER = f". {FILES}/environment.sh;"  # each command of the launcher has a shell of its own
# A Ray Job goes on when the connection that started it breaks.
START = f"""\
{ENTER.rstrip(";")}
exec ray job submit --address http://127.0.0.1:8265 -- bash {FILES}/job.sh
"""


def vm(workload: Workload, shape: Shape, options: VmOptions) -> str:
    """The launcher's configuration, with recipe and script among the head's set-up commands.

    Runs are kept in `runs` of the shared storage unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    if shape.memory_gib is not None:
        raise ConfigError(
            f"--memory-per-node: machines come with their memory, but got {shape.memory_gib}; "
            "choose one with --instance-type"
        )
    machines = machines_of(options, shape)
    own, mount = options.provider == "local", options.mount
    image = options.image or (None if own else default_image(options.package, shape.gpus))
    runs = workload.runs or f"{mount}/runs"
    # A container sees nothing but the shared storage; machines may have more than one.
    folders = shared_folders(workload, runs, mount if image else "/")
    variables = ["RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"]
    if data := workload.data or (None if is_url(runs) else f"{mount}/data"):
        variables.append(f"KD_RAY_DATA={data}")
    environment = [
        "set -e",
        *options.setup,
        f"export {shlex.join(variables)}",
        f"export RAY_AUTH_TOKEN_PATH={TOKEN}",
        "unset RAY_AUTH_TOKEN",  # of the user's shell; it would go before the file
    ]
    held = f"--num-cpus={shape.cpus} --num-gpus={shape.gpus} " if own else ""
    start = f"{ENTER} ulimit -n 65536 || true; ray start --disable-usage-stats {held}"
    config: dict[str, Any] = {
        "cluster_name": dns_name(workload.name),
        **machines,
        "auth": {**machines["auth"], "ssh_private_key": options.ssh_key},
        "idle_timeout_minutes": 10,
        "docker": _container(image, mount, folders) if image else None,
        "file_mounts": {TOKEN: TOKEN},
        "cluster_synced_files": [],
        "setup_commands": [
            f"mkdir -p {FILES}",
            _writes("environment.sh", "\n".join([*environment, ""])),
            *_checks(options.package, folders),
        ],
        "head_setup_commands": [
            _writes("recipe.toml", workload.recipe),
            # The home folder is not known here, so the recipe is named relative to it.
            _writes(
                "job.sh", script(workload, "kd-ray/recipe.toml", runs, [ENTER.rstrip(";"), "cd"])
            ),
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
    return manifest(_header(workload, image, runs, folders, options), config)


def _writes(name: str, text: str) -> str:
    """The command that writes a file of `text` on a node."""
    return f"printf %s {shlex.quote(text)} > {FILES}/{name}"


def _checks(package: str | None, folders: list[str]) -> list[str]:
    """Each node proves that it has what it needs before Ray starts on it."""
    commands = []
    if package is not None:
        wanted = shlex.join([f"ray[default,train,tune]=={ray_version()}", package])
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
    workload: Workload, image: str | None, runs: str, folders: list[str], options: VmOptions
) -> list[str]:
    version = kd_ray_version()
    holder = f"Image: {image}" if image else "Machines"
    package = f"get {options.package}" if options.package else f"hold kd-ray {version}"
    lines = [
        f"Recipe {workload.name!r} for Ray's cluster launcher, provider {options.provider}.",
        f"  ray get-auth-token --generate   # once: makes {TOKEN}, which all nodes share",
        "  ray up FILE",
        f"  ray exec FILE 'bash {FILES}/start.sh'   # the same again goes on where it was",
        "  ray down FILE",
        f"{holder}, with Ray {ray_version()}; must {package}.",
        f"Runs: {runs}" + ("; mounted on every machine already." if folders else "."),
    ]
    if options.provider == "local":
        lines.append("`ray up` ends any other Ray of this user on these machines.")
    elif options.machine_image is None:
        lines.append("No --machine-image was named: see that the default has a driver for the GPU.")
    return lines
