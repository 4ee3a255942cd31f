"""What workers send to the driver, events and warnings and errors, with news of the nodes."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kd_ray.errors import ClusterError, KdRayError
from kd_ray.on_ray.storage import on_node
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task

POLL_S = 0.5
LOOK_S = 2.0
"""Seconds from one look at the cluster's nodes to the next, while no worker says anything."""


def beside_driver() -> dict[str, Any]:
    """Options of what holds workers together, so that no lost node ends them."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": on_node(here)}


@contextlib.contextmanager
def warnings_sent(mailbox: Any) -> Iterator[None]:
    """Warnings of the block go to the driver, as their text."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: mailbox.put(str(message))
        yield


def relay(mailbox: Any, task: Task, is_busy: Callable[[], bool]) -> Iterator[tuple[Task, Event]]:
    """Yields the events that workers send, and what happens to nodes meanwhile.

    Args:
        mailbox: a queue of (task, event), of warnings as their text, and of errors.
        task: the one that news of nodes belong to until there is an event of another.
        is_busy: whether a worker may still send something.

    Raises:
        KdRayError: what a worker sent.
        ClusterError: see `helpers_needed`.
    """
    from ray.util.queue import Empty

    alive, looked_at = _nodes_alive(), time.monotonic()
    while True:
        busy = is_busy()
        try:
            with helpers_needed():
                message = mailbox.get(timeout=POLL_S)
        except Empty:
            if not busy:
                return
            if time.monotonic() - looked_at >= LOOK_S:
                before, alive, looked_at = alive, _nodes_alive(), time.monotonic()
                yield from ((task, Waiting(news)) for news in _news(before, alive))
            continue
        if isinstance(message, KdRayError):
            raise message
        if isinstance(message, str):
            warnings.warn(message, stacklevel=2)
            continue
        task, _ = message
        yield message


def _nodes_alive() -> dict[str, str]:
    """Id of each node -> its address."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}


def _news(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for node in before.keys() - now.keys():
        yield f"Lost node {before[node]}; waiting for room to go on from the last epoch"
    for node in now.keys() - before.keys():
        yield f"Node {now[node]} has joined"


@contextlib.contextmanager
def helpers_needed() -> Iterator[None]:
    """Makes a `ClusterError` of the end of a process that holds workers together."""
    from ray import exceptions

    ends = (
        *(exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError),
        *(exceptions.LocalRayletDiedError, exceptions.ObjectLostError),
    )
    try:
        yield
    except ends as error:
        raise _died("a process of Ray's that holds the workers together", "died", error) from None


def died_too_often(who: str, error: Exception) -> ClusterError:
    """What a driver raises when workers were lost more often than a recipe allows.

    Args:
        who: the worker, or the task whose worker it was.
        error: Ray's own.
    """
    return _died(who, "died more often than resources.max_failures allows", error)


def _died(who: str, what: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"{who} must stay alive, but {what} ({str(error).splitlines()[0]}); look for a lack of "
        "memory, then run the same again to go on from the last epoch"
    )
