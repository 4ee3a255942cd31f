"""Independent trainings side by side: as many as fit the cluster, each on a worker of its own.

A training of several workers is a Ray Train group of its own. One that is lost with its worker or
node is performed again, alone; it goes on from its last epoch, and the others never notice.
"""

import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import ClusterError, KdRayError
from kd_ray.files import scratch_folder, to_path
from kd_ray.on_ray.placement import NodeWatch, Placement, counted, training_slots
from kd_ray.on_ray.session import connected
from kd_ray.on_ray.storage import check_nodes, on_this_node
from kd_ray.on_ray.train import LOOK_S, POLL_S, perform_on_ray
from kd_ray.runs import Inputs, perform_all
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task


class Performer:
    """[1] A worker that trains one model after the other, on the same data."""

    def __init__(self, resources: Resources, placement: Placement, mailbox: Any):
        """Everything that it shares with the others; `mailbox` takes events and warnings."""
        import torch

        on_gpu = placement.gpus and torch.cuda.is_available()  # nodes may but count as having GPUs
        self._device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        self._resources, self._placement, self._mailbox = resources, placement, mailbox
        self._shelf = Inputs()

    def perform(self, task: Task) -> KdRayError | None:
        """Performs a task; what a user can mend is returned, so that it travels unchanged."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: self._mailbox.put(str(message))
            try:
                for event in self._events(task):
                    self._mailbox.put(event)
            except KdRayError as error:
                return error
        return None

    def _events(self, task: Task) -> Iterator[tuple[Task, Event]]:
        from kd_ray.training.workers import Worker

        if self._placement.workers > 1:
            return perform_on_ray([task], self._resources)
        worker = Worker(rank=0, world=1, device=self._device, threads=self._placement.cpus)
        return perform_all([task], worker, self._shelf)


def perform_parallel(
    tasks: Sequence[Task],
    resources: Resources,
    *,
    address: str | None = None,
    verbose: bool = False,
) -> Generator[tuple[Task, Event]]:
    """[2] Performs the stages of a run one after the other, and yields their events.

    Trainings of one stage do not depend on each other: where the cluster holds several, they run
    side by side. What is left, one group of workers performs in order.

    Args:
        tasks: in order of their stages.
        resources: of one training.
        address: HOST:PORT of a cluster; None for this machine.
        verbose: let Ray's own log lines through.

    Closing the generator ends the workers.

    Raises:
        KdRayError: of the first training that failed, when those beside it have ended.
        ClusterError: the workers of one training do not fit, or died more often than
            `max_failures`.
    """
    if not tasks:
        return
    with connected(address, verbose):
        in_order: list[Task] = []
        for _, group in groupby(tasks, key=lambda task: task.stage.name):
            stage = list(group)
            placement, slots = training_slots(resources, len(stage))
            if slots == 1:
                in_order += stage
                continue
            yield from _in_order(in_order, resources, verbose)
            in_order = []
            yield from _side_by_side(stage, resources, placement, slots)
        yield from _in_order(in_order, resources, verbose)


def _in_order(
    tasks: Sequence[Task], resources: Resources, verbose: bool
) -> Iterator[tuple[Task, Event]]:
    """On a group of workers; or what is no training alone on a lone worker, without Ray Train.

    Labelling has no step that workers share and nothing to save between shards, and Ray Train's own
    start and end would take longer than the labels of a small set.
    """
    if len(tasks) == 1 and tasks[0].stage.training is None:
        placement, _ = training_slots(resources, 1)
        if placement.workers == 1 and not resources.elastic:
            yield from _side_by_side(tasks, resources, placement, 1)
            return
    yield from perform_on_ray(tasks, resources, verbose=verbose)


def _side_by_side(
    tasks: Sequence[Task], resources: Resources, placement: Placement, slots: int
) -> Iterator[tuple[Task, Event]]:
    run = to_path(tasks[0].run)
    several = f"{slots} trainings side by side, " if slots > 1 else ""
    yield tasks[0], Waiting(f"Starting {several}{counted(placement)}")
    with scratch_folder(run, "ray") as probe:
        check_nodes(run, probe, placement)
    pool = _Pool(tasks, resources, placement)
    try:
        yield from pool.events(slots)
    finally:
        pool.end()
    if pool.failures:
        raise pool.failures[0]


class _Pool:
    """[2] The performers, and which task each has."""

    def __init__(self, tasks: Sequence[Task], resources: Resources, placement: Placement):
        import ray
        from ray.util.queue import Queue

        beside_us = {"num_cpus": 0, "scheduling_strategy": on_this_node()}
        self._mailbox = Queue(actor_options=beside_us)
        if placement.workers == 1:
            its: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
            its["scheduling_strategy"] = "SPREAD"
        else:
            its = beside_us  # its workers ask for themselves
        self._class = ray.remote(max_restarts=0, max_task_retries=0, **its)(Performer)
        self._arguments = (resources, placement, self._mailbox)
        self._waiting = deque(tasks)
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._most_lost = resources.max_failures
        self._lost: Counter[str] = Counter()
        self.failures: list[KdRayError] = []

    def events(self, slots: int) -> Iterator[tuple[Task, Event]]:
        import ray

        task = self._waiting[0]
        for _ in range(min(slots, len(self._waiting))):
            self._next(self._class.remote(*self._arguments))
        watch = NodeWatch(LOOK_S)
        while self._running:
            over, _ = ray.wait(list(self._running), num_returns=1, timeout=0)
            for message in self._messages():
                task, _ = message
                yield message
            yield from ((task, Waiting(news)) for news in watch.news())
            for done in over:
                self._after(done)
        yield from self._messages()

    def end(self) -> None:
        """Ends every performer; what was finished is on disk."""
        import ray

        for performer, _ in self._running.values():
            ray.kill(performer)

    def _next(self, performer: Any) -> None:
        """Gives a performer the next task, or ends it where there is none."""
        import ray

        if self._waiting:
            task = self._waiting.popleft()
            self._running[performer.perform.remote(task)] = (performer, task)
        else:
            ray.kill(performer)  # one that only loses its last handle may hang as it exits

    def _after(self, done: Any) -> None:
        """Looks at what has become of a task."""
        import ray
        from ray.exceptions import RayActorError

        performer, task = self._running.pop(done)
        try:
            failure = ray.get(done)
        except RayActorError as error:
            self._lost[task.title] += 1
            if self._lost[task.title] > self._most_lost >= 0:
                raise ClusterError(
                    f"{task.title}: its worker must stay alive, but died more often than "
                    f"resources.max_failures allows ({str(error).splitlines()[0]}); look for a "
                    "lack of memory, then run the same again to go on from the last epoch"
                ) from None
            self._waiting.append(task)
            performer = self._class.remote(*self._arguments)
            failure = None
        if failure is not None:
            self.failures.append(failure)
        self._next(performer)

    def _messages(self) -> Iterator[tuple[Task, Event]]:
        """What performers have said; waits a moment for the first of it."""
        from ray.util.queue import Empty

        try:
            message = self._mailbox.get(timeout=POLL_S)
            while True:
                if isinstance(message, str):
                    warnings.warn(message, stacklevel=2)
                else:
                    yield message
                message = self._mailbox.get_nowait()
        except Empty:
            return
