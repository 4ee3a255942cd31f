"""The command lines of Ray's own processes: a head, and nodes that join it.

All ports but the two that people type are free ones, so that several nodes live on one machine.
"""

import os
import secrets
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.processes import program
from kd_ray.errors import ClusterError
from kd_ray.on_ray.session import ENVIRONMENT, token_file

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16
NOTICE_S = 30
"""How long a node that is asked to end stays, so that what trains on it can be checkpointed."""


@dataclass(frozen=True)
class NodeOptions:
    """What a node counts as having, its address as others see it, Ray's folder and shared memory.

    None leaves it to Ray: all of the machine, that of the default route, 30 % of the memory.
    """

    cpus: int | None = None
    gpus: int | None = None
    ip: str | None = None
    temporary: Path | None = None
    store_bytes: int | None = None


def head_command(
    options: NodeOptions, port: int, dashboard_port: int, dashboard_host: str = "127.0.0.1"
) -> list[str]:
    """The command of a head in the foreground; `ray start` exits by itself when its raylet dies.

    Raises:
        ClusterError: the job server, which runs what it is sent, would be open to other machines
            without a token.
    """
    if dashboard_host not in LOOPBACK and os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise ClusterError(
            f"--dashboard-host {dashboard_host}: the job server runs whatever it is sent, so "
            "beyond this machine it must ask for a token, but RAY_AUTH_MODE is "
            f"{os.environ['RAY_AUTH_MODE']!r}; unset that, or leave the dashboard on 127.0.0.1"
        )
    return [
        *_start(options),
        "--head",
        f"--port={port}",
        f"--dashboard-host={dashboard_host}",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={free_port()}",
        "--include-dashboard=true",
    ]


def join_command(options: NodeOptions, address: str) -> list[str]:
    """The command of a node in the foreground that joins the cluster whose head is at `address`."""
    return [*_start(options), f"--address={address}"]


def _start(options: NodeOptions) -> list[str]:
    free = ("dashboard-agent-listen-port", "metrics-export-port", "min-worker-port")
    given = {
        "num-cpus": options.cpus,
        "num-gpus": options.gpus,
        "node-ip-address": options.ip,
        "temp-dir": options.temporary,
        "object-store-memory": options.store_bytes,
        **dict.fromkeys((*free, "max-worker-port"), 0),
    }
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [program("ray"), "start", "--block", "--disable-usage-stats", *words]


def node_environment(tags: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node's processes: that of this one, what Ray reads, and `tags`.

    Between being asked to end and ending lie `NOTICE_S` seconds, or what is set for Ray here.
    """
    others = ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    inherited = {name: value for name, value in os.environ.items() if name not in others}
    own_programs = str(Path(program("ray")).parent)
    return {
        **ENVIRONMENT,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_S),
        **inherited,
        "PATH": f"{own_programs}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "RAY_AUTH_MODE": inherited.get("RAY_AUTH_MODE", "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        **tags,
    }


def provide_token() -> str:
    """Makes sure that there is a token to start a cluster with, and returns where it is.

    Ray looks for it in RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN, then the user's own file, which is made
    if there is none. A file that others may read is warned of.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names no readable file, or the token can be guessed.
    """
    where, token = "RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", "")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named and not os.access(named, os.R_OK):
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH: must name a file with the cluster's token, but {named} "
            "cannot be read; write the token there, or unset it for a token of your own"
        )
    if named or not token:
        path = Path(named) if named else token_file()
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
        where, token = str(path), path.read_text(errors="replace").strip()
        if path.stat().st_mode & 0o077:
            warnings.warn(f"{path}: others may read the token; run chmod 600 {path}", stacklevel=2)
    if len(token) < SHORTEST_TOKEN:
        raise ClusterError(
            f"{where}: a token must have at least {SHORTEST_TOKEN} characters, but has "
            f"{len(token)}; write another one, such as `openssl rand -hex 32` makes"
        )
    return where


def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
