"""A cluster of separate Ray processes on one machine, for trying things before paying for machines.

What is known of it lies in one folder: its description, a log for each node, and Ray's own files.
"""

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.nodes import (
    NodeOptions,
    free_port,
    head_command,
    join_command,
    node_environment,
    provide_token,
)
from cluster.processes import CLUSTER_TAG, NODE_TAG, end, kill, launch, tagged
from cluster.server import node_states
from kd_ray.errors import ClusterError
from kd_ray.files import locked, write_json

DESCRIPTION = "cluster.json"
READY_S, POLL_S = 90.0, 0.2
SOCKET, SOCKET_BYTES = "session_2026-01-01_00-00-00_000000_12345/sockets/plasma_store", 107
"""The longest path below a node's folder at which Ray listens, and what a system allows it."""
STORE_BYTES = 256 * 2**20
"""For Ray's objects on each node: a run sends events and code through Ray; data lies in files."""


@dataclass(frozen=True)
class LocalCluster:
    """A cluster on this machine; `tag` is in the environment of all its processes.

    The address is HOST:PORT of the head, the dashboard a URL, which is the job server's too.
    """

    name: str
    tag: str
    address: str
    dashboard: str
    nodes: int

    @property
    def folder(self) -> Path:
        """The folder of its description, logs and Ray's files."""
        return cluster_folder(self.name)

    def log(self, number: int) -> Path:
        """The file with what `ray start` of a node printed."""
        return self.folder / f"{node_tag(number)}.log"


def node_tag(number: int) -> str:
    """The tag of a node; the head is node 0."""
    return f"node-{number}"


def cluster_folder(name: str) -> Path:
    """The folder of a cluster of this name; its path is short, as those of sockets must be.

    Raises:
        ClusterError: the name is no folder's, or the folder belongs to another user.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name) or len(name) > 24:
        raise ClusterError(
            f"--name: must be 1 to 24 letters, digits, - and _, but got {name!r}; choose another"
        )
    home = Path(tempfile.gettempdir()) / f"kd-ray-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise ClusterError(
            f"{home}: must be a folder of yours, for the files of clusters, but is a link or "
            "another user's; remove it, or set TMPDIR to another folder"
        )
    return home / name


def find(name: str = "local") -> LocalCluster | None:
    """The cluster of that name, if its head lives."""
    cluster = _described(name)
    return cluster if cluster is not None and tagged(cluster.tag, node_tag(0)) else None


def _described(name: str) -> LocalCluster | None:
    file = cluster_folder(name) / DESCRIPTION
    try:
        return LocalCluster(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ClusterError(
            f"{file}: must describe a cluster, but cannot be read ({error}); remove its folder"
        ) from error


def up(
    nodes: int,
    cpus: int | None = None,
    gpus: int | None = None,
    name: str = "local",
    listener: Callable[[str], None] = print,
) -> LocalCluster:
    """Starts a cluster and waits until all of its nodes, the head among them, answer.

    Args:
        nodes: how many.
        cpus: CPUs that each node counts as; by default the machine's, shared out.
        gpus: GPUs that each node counts as; none need to be there to try how work is placed.
        name: there may be several clusters.
        listener: called with a line for each thing that happens.

    Raises:
        ClusterError: there is one already, or it does not come up.
    """
    for option, value, least in (("--nodes", nodes, 1), ("--cpus", cpus, 0), ("--gpus", gpus, 0)):
        if value is not None and value < least:
            raise ClusterError(f"{option}: must be at least {least}, but got {value}")
    folder = cluster_folder(name)
    if (length := len(os.fsencode(folder / f"ray-{nodes}" / SOCKET))) > SOCKET_BYTES:
        raise ClusterError(
            f"{folder}: paths of Ray's sockets in it must have at most {SOCKET_BYTES} bytes, but "
            f"would have {length}; choose a shorter --name, or set TMPDIR to a shorter folder"
        )
    with locked(folder.parent, name=f".{name}.lock"):
        if (there := find(name)) is not None:
            raise ClusterError(
                f"cluster {name!r}: is up already, at {there.address}; end it with `kd-ray cluster "
                f"down{'' if name == 'local' else f' --name {name}'}`, or choose another --name"
            )
        down(name)  # what a killed one left
        listener(f"Starting {nodes} nodes on this machine, with the token in {provide_token()}")
        folder.mkdir(mode=0o700)
        port, dashboard_port = free_port(), free_port()
        address, dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}"
        cluster = LocalCluster(name, uuid.uuid4().hex, address, dashboard, nodes)
        write_json(folder / DESCRIPTION, asdict(cluster))
        each = cpus if cpus is not None else max(1, (os.cpu_count() or 1) // nodes)
        options = [
            # A folder for each, as on machines of their own: one clears what it no longer needs.
            NodeOptions(each, gpus, "127.0.0.1", folder / f"ray-{number}", STORE_BYTES)
            for number in range(nodes)
        ]
        try:
            _launch(cluster, 0, head_command(options[0], port, dashboard_port))
            _wait(cluster, 1, listener)
            for number in range(1, nodes):
                _launch(cluster, number, join_command(options[number], cluster.address))
            _wait(cluster, nodes, listener)
        except BaseException:
            down(name)
            raise
    return cluster


def _launch(cluster: LocalCluster, number: int, command: list[str]) -> None:
    tags = {CLUSTER_TAG: cluster.tag, NODE_TAG: node_tag(number)}
    launch(command, cluster.log(number), node_environment(tags))


def _wait(cluster: LocalCluster, nodes: int, listener: Callable[[str], None]) -> None:
    """Asks until so many nodes are alive; a node whose process ends has failed."""
    deadline = time.monotonic() + READY_S
    shown = nodes - 1
    while True:
        try:
            alive = sum(state.alive for state in node_states(cluster.dashboard))
            answer = f"{alive} nodes alive"
        except ClusterError as error:
            alive, answer = 0, str(error)
        for number in range(shown + 1, alive + 1):
            listener(f"  node {number} of {cluster.nodes} is up")
        shown = max(shown, alive)
        if alive >= nodes:
            return
        fallen = [n for n in range(nodes) if not tagged(cluster.tag, node_tag(n))]
        if fallen:
            lines = cluster.log(fallen[0]).read_text(errors="replace").strip().splitlines()
            answer = lines[-1] if lines else "nothing"
        if fallen or time.monotonic() > deadline:
            what = f"node {fallen[0]} ended" if fallen else f"{alive} did in {READY_S:.0f} s"
            raise ClusterError(
                f"cluster {cluster.name!r}: {nodes} nodes must come up, but {what} (it said last: "
                f"{answer}); try fewer nodes"
            )
        time.sleep(POLL_S)


def down(name: str = "local") -> LocalCluster | None:
    """Ends a cluster's own processes, and no others; returns the cluster if there was one."""
    if (cluster := _described(name)) is not None:
        # A node's first process would give notice to what runs there, and wait.
        kill([process for process in tagged(cluster.tag) if "start" in process.info["cmdline"]])
        end(tagged(cluster.tag))
    shutil.rmtree(cluster_folder(name), ignore_errors=True)
    return cluster
