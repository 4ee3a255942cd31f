"""What workers send to the driver, and news of nodes."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kd_ray.errors import ClusterError, KdRayError
from kd_ray.on_ray.head import living_nodes
from kd_ray.on_ray.placement import on_node
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task

POLL_S = 0.5
LOOK_S = 2.0
"""Seconds from one look at the cluster's nodes to the next."""


def beside_driver() -> dict[str, Any]:
    """Options of what holds workers together, so that no lost node ends them."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": on_node(here)}


class Mailbox:
    """A queue whose keeper holds bytes, and so imports nothing of what is in them."""

    def __init__(self) -> None:
        from ray.util.queue import Queue

        self._queue = Queue(actor_options=beside_driver())

    def put(self, message: Any) -> None:
        """Adds a message; it is pickled here."""
        from ray import cloudpickle

        self._queue.put(cloudpickle.dumps(message))  # type: ignore[no-untyped-call]

    def get(self, timeout: float | None = None) -> Any:
        """The oldest message; `queue.Empty` if none comes in `timeout` seconds."""
        from ray import cloudpickle

        return cloudpickle.loads(self._queue.get(timeout=timeout))

    def empty(self) -> bool:
        """Whether there is none now."""
        return bool(self._queue.empty())


@contextlib.contextmanager
def warnings_sent(mailbox: Mailbox) -> Iterator[None]:
    """Warnings of the block go to the driver, as their text."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: mailbox.put(str(message))
        yield


def relay(
    mailbox: Mailbox, task: Task, is_busy: Callable[[], bool]
) -> Iterator[tuple[Task, Event]]:
    """Yields the events that workers send, and what happens to nodes meanwhile.

    Args:
        mailbox: of (task, event), of warnings as their text, and of errors.
        task: the one that news of nodes belong to until there is an event of another.
        is_busy: whether a worker may still send something.

    Raises:
        KdRayError: what a worker sent.
        ClusterError: see `helpers_needed` and `check_head`.
    """
    from ray.util.queue import Empty

    alive, looked_at = _nodes_alive(), time.monotonic()
    while True:
        busy = is_busy()
        if time.monotonic() - looked_at >= LOOK_S:
            before, alive, looked_at = alive, _nodes_alive(), time.monotonic()
            for node in before.keys() - alive.keys():
                news = f"Lost node {before[node]}; waiting for room to go on from the last epoch"
                yield task, Waiting(news)
            for node in alive.keys() - before.keys():
                yield task, Waiting(f"Node {alive[node]} has joined")
        try:
            with helpers_needed():
                message = mailbox.get(timeout=POLL_S)
        except Empty:
            if not busy:
                return
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
    return {node["NodeID"]: node["NodeManagerAddress"] for node in living_nodes()}


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
    """What a driver raises when a worker was lost more often than a recipe allows."""
    return _died(who, "died more often than resources.max_failures allows", error)


def _died(who: str, what: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"{who} must stay alive, but {what} ({str(error).splitlines()[0]}); look for a lack of "
        "memory, then run the same again to go on from the last epoch"
    )
