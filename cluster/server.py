"""What a cluster's head says over HTTP: its nodes, and the client of its job server."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kd_ray.errors import ClusterError
from kd_ray.on_ray import check_cluster
from kd_ray.on_ray.private import LOG_NAMES, dashboard_lookup
from kd_ray.on_ray.session import prepare_environment

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_S, ANSWER_S = 4.0, 10
OWN_RESOURCES = ("node:", "memory", "object_store_memory", "accelerator_type:")


@dataclass(frozen=True)
class NodeState:
    """A node as the head knows it; `why` is what Ray knows about the end of a dead one."""

    ip: str
    alive: bool
    is_head: bool
    resources: dict[str, float]
    why: str


def dashboard_of(address: str) -> str:
    """The URL of a cluster's dashboard and job server, from itself or HOST:PORT of the head.

    Raises:
        ClusterError: no cluster answers there, or it has no dashboard.
    """
    prepare_environment(cluster=True)
    if "://" in address and not address.startswith("ray://"):
        check_dashboard(address)
        return address
    check_cluster(address)
    with _without_addresses():
        try:
            dashboard = dashboard_lookup()(address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"--address {address}: a Ray cluster answers there, but without a dashboard "
                f"({_first_line(error)}), which runs its jobs; start its head with `kd-ray cluster "
                "up --head`"
            ) from error
    check_dashboard(dashboard)
    return dashboard


def check_dashboard(url: str) -> None:
    """Refuses a URL where nothing listens, for which the client would wait for minutes."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"--address {url}: a cluster's dashboard must answer there, but: "
            f"{error.strerror or error}; give the address of a cluster that is up, or start one "
            "with `kd-ray cluster up`"
        ) from error


@cache
def job_client(dashboard: str) -> "JobSubmissionClient":
    """The client of a job server; see `answering` for errors."""
    with answering(dashboard), _without_addresses():
        from ray.job_submission import JobSubmissionClient

        for name in LOG_NAMES:
            logging.getLogger(name).setLevel(logging.ERROR)
        return JobSubmissionClient(dashboard)


def node_states(dashboard: str) -> list[NodeState]:
    """All nodes that a cluster has and had, the head first; see `answering` for errors."""
    with answering(dashboard):
        from ray.util.state import list_nodes

        listed = list_nodes(address=dashboard, limit=10_000, timeout=ANSWER_S, detail=True)
    states = []
    for node in listed:
        total = (node.resources_total or {}).items()
        resources = {name: n for name, n in total if not name.startswith(OWN_RESOURCES)}
        alive, why = node.state == "ALIVE", str(node.state_message or "")
        states.append(NodeState(str(node.node_ip), alive, bool(node.is_head_node), resources, why))
    return sorted(states, key=lambda node: (not node.is_head, not node.alive, node.ip))


@contextlib.contextmanager
def answering(dashboard: str) -> Iterator[None]:
    """Makes a `ClusterError` of no answer, or of the wish for another token, as Ray says it."""
    prepare_environment(cluster=True)
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"{dashboard}: the cluster wants a token, but yours is another one or missing; put the "
            "cluster's token into a file and name that in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (OSError, RayStateApiException) as error:
        raise ClusterError(
            f"{dashboard}: the cluster's dashboard must answer there, but: {_first_line(error)}; "
            "see with `kd-ray cluster status` whether the cluster is up"
        ) from error


@contextlib.contextmanager
def _without_addresses() -> Iterator[None]:
    """Hides variables that Ray would prefer to the address that it is given."""
    names = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & os.environ.keys()
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
