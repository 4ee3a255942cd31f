"""What workers send to the driver, news of nodes, and whether each node sees the run folder."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kd_ray.errors import ClusterError, KdRayError, StorageError
from kd_ray.files import is_stored, to_path
from kd_ray.on_ray.head import living_nodes
from kd_ray.on_ray.placement import Placement
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task

POLL_S = 0.5
LOOK_S = 2.0
"""Seconds from one look at the cluster's nodes to the next."""
ASKED_S = 10.0
"""For the nodes to answer; one that does not is asked again by its worker."""


def on_node(node: str) -> Any:
    """A scheduling strategy: the node of this id, and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


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


def check_nodes(run: Path, probe: Path, placement: Placement) -> None:
    """Refuses a connected cluster of which a node does not see the run folder.

    Only nodes that have room for a worker are asked; the processes that answer are idle afterwards
    and become workers, so that asking costs next to nothing.

    Args:
        run: the run folder.
        probe: a folder in it that this process has just made.
        placement: of a worker.

    Raises:
        StorageError: naming the node.
    """
    import ray

    if is_stored(run):
        return
    here = ray.get_runtime_context().get_node_id()
    asked = [
        ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node["NodeID"]))(
            check_here
        ).remote(str(run), str(probe))
        for node in living_nodes()
        if node["NodeID"] != here
        if all(node["Resources"].get(name, 0) >= n for name, n in placement.asked.items())
    ]
    if not asked:
        return
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ASKED_S)
    for answer in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # a node that dies is not blind
            problem = ray.get(answer)
            if problem is not None:
                raise problem


def check_here(run: str, probe: str) -> StorageError | None:
    """What is wrong if this process does not see the `probe` that its driver made in the `run`."""
    if is_stored(to_path(run)) or Path(probe).is_dir():
        return None
    import ray.util

    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return StorageError(
        f"{run}: every node must see the run folder, but {node} does not; put it with --runs on "
        "storage that all nodes mount, or in an object store"
    )
