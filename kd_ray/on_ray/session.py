"""A quiet Ray, local or at an address, and what it has to give.

Ray reads much of its configuration from the environment when it is imported, so this module is the
first to import it.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import ClusterError

CONNECT_S = 5.0

ENVIRONMENT = {
    # Workers use the interpreter that runs now; Ray would start each through uv again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Paths in recipes are relative to where the command was typed.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Tune's log files, its own table and its own way with Ctrl-C are not wanted.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Start-up polls at these intervals; Ray's defaults cost seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Ray runs its workers at niceness 15; beside any other work they would hardly run at all.
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Placement:
    """What each of the workers of one training gets."""

    workers: int
    cpus: int
    gpus: int


def prepare_environment() -> None:
    """Sets what Ray reads at import; a value that the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def connected(address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """Ray for the block: one that runs already in this process, one at `address`, or a new one.

    Raises:
        ClusterError: nothing answers at the address.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():  # a notebook's own; it is not ours to end
        yield
        return
    if address is not None and ":" in address:
        check_reachable(address)
    options: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if address is None:
        options["include_dashboard"] = False
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{address or 'this machine'}: Ray must start or answer, but: "
            f"{str(error).splitlines()[0]}; check the address, or use --local for no Ray"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Refuses an address where nothing listens; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        raise ClusterError(f"--address {address}: must be HOST:PORT, such as 10.0.0.4:6379")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: a Ray cluster must answer there, but {error.strerror or error}; "
            "start one, or leave --address out to use this machine"
        ) from error


def place(resources: Resources) -> Placement:
    """Shares out the connected cluster's CPUs and GPUs.

    Raises:
        ClusterError: the workers do not fit, with the arithmetic.
    """
    nodes = [node["Resources"] for node in _nodes() if node["Alive"]]
    return share_out(
        resources,
        cpus=[int(node.get("CPU", 0)) for node in nodes],
        gpus=[int(node.get("GPU", 0)) for node in nodes],
    )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())  # type: ignore[no-untyped-call]


def places(resources: Resources) -> tuple[Placement, int]:
    """What each worker of a trial gets, and how many trials the cluster holds side by side.

    `cpus_per_worker = "auto"` is 1 here: trials beside each other use the CPUs better than one
    trial on all of them.

    Raises:
        ClusterError: not even one fits, with the arithmetic.
    """
    one = resources
    if resources.cpus_per_worker == "auto":
        one = resources.model_copy(update={"cpus_per_worker": 1})
    placement = place(one)
    fixed = one.model_copy(update={"gpus_per_worker": placement.gpus})
    trials = 1
    with contextlib.suppress(ClusterError):
        while True:
            place(fixed.model_copy(update={"workers": resources.workers * (trials + 1)}))
            trials += 1
    return placement, trials


def share_out(resources: Resources, cpus: list[int], gpus: list[int]) -> Placement:
    """The same on plain numbers: CPUs and GPUs of each node.

    >>> share_out(Resources(workers=3), cpus=[4, 2], gpus=[0, 0])
    Placement(workers=3, cpus=2, gpus=0)
    """
    workers = resources.workers
    if resources.gpus_per_worker == "auto":
        gpus_each = 1 if sum(gpus) >= workers else 0
    else:
        gpus_each = resources.gpus_per_worker
    if gpus_each * workers > sum(gpus):
        raise ClusterError(
            f"resources: {workers} workers with {gpus_each} GPU each need {gpus_each * workers} "
            f"GPUs, but there are {sum(gpus)}; use fewer workers or gpus_per_worker = 0"
        )
    if resources.cpus_per_worker == "auto":
        fitting = [c for c in range(1, max(cpus) + 1) if sum(n // c for n in cpus) >= workers]
        cpus_each = max(fitting, default=1)
    else:
        cpus_each = resources.cpus_per_worker
    if sum(count // cpus_each for count in cpus) < workers:
        raise ClusterError(
            f"resources: {workers} workers with {cpus_each} CPU each need {cpus_each * workers} "
            f"CPUs, but there are {sum(cpus)}; use --workers {sum(cpus) // cpus_each} or fewer"
        )
    return Placement(workers, cpus_each, gpus_each)
