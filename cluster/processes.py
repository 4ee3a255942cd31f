"""Processes that are ours: each carries a tag in its environment, which its children inherit.

A process id alone may be somebody else's by the time it is looked at, and what a killed parent
leaves behind has lost its place in the tree; the tag stays.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

CLUSTER_TAG = "KD_RAY_CLUSTER"
NODE_TAG = "KD_RAY_NODE"
GRACE_S = 5.0
"""For processes that were asked to end, before they are killed."""


def launch(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Starts a process of its own session, which outlives this one, and returns its number.

    The log is begun anew; the environment is the whole of it, tags included.
    """
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawnp(
        arguments[0],
        list(arguments),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def tagged(cluster: str, node: str | None = None) -> list[psutil.Process]:
    """The living processes of a cluster, or of one of its nodes, with `info` of their cmdline."""
    living = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        tags = process.info["environ"] or {}  # none of another user's
        ours = tags.get(CLUSTER_TAG) == cluster and node in (None, tags.get(NODE_TAG))
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if ours and alive and process.pid != os.getpid():
            living.append(process)
    return living


def end(processes: Sequence[psutil.Process], grace_s: float = GRACE_S) -> None:
    """Asks processes to end, and kills those that have not after `grace_s` seconds."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    kill(alive)


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kills processes at once, as a machine does that loses its power."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=GRACE_S)


def program(name: str) -> str:
    """A program that was installed beside this Python."""
    return str(Path(sys.executable).with_name(name))
