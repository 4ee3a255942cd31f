"""A quiet Ray, local or at an address, and what it has to give.

Ray reads much of its configuration from the environment when it is imported, so this module is the
first to import it.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray.errors import ClusterError
from kd_ray.on_ray.head import head_watched, silence_at
from kd_ray.on_ray.orphans import orphans_ended
from kd_ray.on_ray.private import (
    ANSWERED,
    TOKEN_WRONG,
    head_answer,
    hush_lost_nodes,
    lean_head,
    own_interpreter,
    own_sigterm,
)
from kd_ray.own_code import sources

ANSWER_S = 10.0
PACKAGES = ("kd_ray", "tuning", "cluster")
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
EXCLUDED = ["**/__pycache__"]
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray where the driver is a Ray Job, which brought its own code along."""

ENVIRONMENT = {
    # Workers use the interpreter that runs now; Ray would start each through uv again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Paths in recipes are relative to where the command was typed.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Tune's log files, its own table and its own way with Ctrl-C are not wanted.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Start-up polls at these intervals; Ray's defaults cost seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Metrics would be served to every machine that asks; a port that is none opens none.
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
    # A process that gives itself a title keeps its environment, by which it is known.
    "SPT_NOENV": "1",
    # Ray runs its workers at niceness 15; beside any other work they would hardly run at all.
    "RAY_worker_niceness": "0",
}


def watches_nodes() -> bool:
    """Whether a training is told when a node will be taken away; on this machine alone none is."""
    return os.environ.get(WATCHER) == "1"


def prepare_environment(*, cluster: bool = False) -> None:
    """Sets what Ray reads at import, but what the user has set; a `cluster` is shown a token."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    has_token = any(os.environ.get(name) for name in TOKEN) or token_file().is_file()
    if cluster and has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_file() -> Path:
    """Where Ray looks for a user's token if the environment names none."""
    return Path.home() / ".ray" / "auth_token"


@contextlib.contextmanager
def connected(address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """Ray for the block: one that runs already in this process, a cluster, or a new one.

    Args:
        address: HOST:PORT of a cluster; None for the one that RAY_ADDRESS names, as in a Ray Job,
            or else for this machine alone.
        verbose: let Ray's own log lines through.

    Raises:
        ClusterError: nothing answers at the address, or not to this client.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    prepare_environment(cluster=address is not None)
    watches = "0" if address is None else "1"  # a cluster's nodes may be taken away with a notice
    os.environ.setdefault(WATCHER, watches)
    import ray

    if ray.is_initialized():  # a notebook's own; it is not ours to end
        yield
        return
    options: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if address is None:
        options["include_dashboard"] = False
    else:
        if JOB not in os.environ:  # a job runs beside the head, and has its code from there
            check_cluster(address)
            options["runtime_env"] = shipped_code()
    if address is None and (own := [str(source) for source in sources()]):
        options["runtime_env"] = {"py_modules": own, "excludes": EXCLUDED}
    with contextlib.ExitStack() as ending:
        if address is None:
            ending.enter_context(orphans_ended())
        ending.callback(ray.shutdown)
        # The lines that `verbose` lets through pass one of the helpers that a lean head lacks.
        with lean_head() if address is None and not verbose else contextlib.nullcontext():
            _begin(options, address)
        if not verbose:
            hush_lost_nodes()
        ending.enter_context(head_watched())
        yield


def _begin(options: dict[str, Any], address: str | None) -> None:
    import ray

    try:
        with own_sigterm(), own_interpreter():
            ray.init(**options)
    except Exception as error:  # Ray raises this very class where it does not start in time
        hint = "check the address" if address else "run it again when this machine is less busy"
        if "Version mismatch" in str(error):
            hint = "install the cluster's versions here, submit a job to it"
        raise ClusterError(
            f"{address or 'this machine'}: Ray must start or answer, but: "
            f"{' '.join(str(error).split())[:300]}; {hint}, or use --local for no Ray"
        ) from error


def shipped_code() -> dict[str, Any]:
    """A runtime environment that gives a cluster's workers the very code that runs here.

    That is this project's, and what recipes that were opened name of the user's own.
    """
    found = [importlib.util.find_spec(name) for name in PACKAGES]
    folders = [str(Path(spec.origin).parent) for spec in found if spec and spec.origin]
    return {"py_modules": [*folders, *map(str, sources())], "excludes": EXCLUDED}


def check_cluster(address: str) -> None:
    """Refuses an address where no cluster answers; Ray itself would go on trying for minutes.

    Raises:
        ClusterError: nothing listens there, what listens is no Ray, or it wants another token.
    """
    prepare_environment(cluster=True)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit() or not host:
        raise ClusterError(f"--address {address}: must be HOST:PORT, such as 10.0.0.4:6379")
    if silence := silence_at(f"{host}:{port}"):
        raise ClusterError(
            f"--address {address}: a Ray cluster must answer there, but {silence}; "
            "start one (kd-ray cluster up), or leave --address out to use this machine"
        )
    if address.startswith("ray://"):
        return
    answer = head_answer(f"{host}:{port}", ANSWER_S)
    if answer == TOKEN_WRONG:
        raise ClusterError(
            f"--address {address}: the cluster wants a token, and the one here is not it or there "
            "is none; put the cluster's into a file and name that in RAY_AUTH_TOKEN_PATH"
        )
    if answer != ANSWERED:
        raise ClusterError(
            f"--address {address}: a Ray cluster must answer there, but what listens said nothing "
            f"that Ray understands in {ANSWER_S:.0f} s; give the port of its head (6379 by "
            "default), not that of its dashboard"
        )
