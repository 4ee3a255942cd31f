"""Independent trainings in parallel: as many as fit the cluster, each on a worker of its own.

A training of several workers is a Ray Train group of its own. One that is lost with its worker or
node is performed again, alone; it goes on from its last epoch, and the others never notice.
"""

from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import groupby
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import KdRayError
from kd_ray.files import scratch_folder, to_path
from kd_ray.on_ray.placement import Placement, check_nodes, cluster_nodes, counted, share_parallel
from kd_ray.on_ray.relay import (
    Mailbox,
    beside_driver,
    died_too_often,
    relay,
    warnings_sent,
)
from kd_ray.on_ray.session import connected, watches_nodes
from kd_ray.on_ray.train import perform_on_ray
from kd_ray.runs import Inputs, groups_of, perform_group
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.task import Task


class Performer:
    """[1] A worker that trains one model after the other, on the same data."""

    def __init__(self, resources: Resources, placement: Placement, mailbox: Mailbox):
        """Everything that it shares with the others; `mailbox` takes events and warnings."""
        import torch

        on_gpu = placement.gpus and torch.cuda.is_available()  # nodes may but count as having GPUs
        self._device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        self._resources, self._placement, self._mailbox = resources, placement, mailbox
        self._inputs = Inputs()

    def perform(self, tasks: Sequence[Task]) -> KdRayError | None:
        """Performs a group of tasks, see `groups_of`; what a user can mend is returned.

        So it travels unchanged.
        """
        try:
            with warnings_sent(self._mailbox):
                for event in self._events(tasks):
                    self._mailbox.put(event)
        except KdRayError as error:
            return error
        return None

    def _events(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Event]]:
        from kd_ray.training.workers import Worker

        if self._placement.workers > 1:
            return perform_on_ray(tasks, self._resources)
        worker = Worker(rank=0, world=1, device=self._device, threads=self._placement.cpus)
        return perform_group(tasks, worker, self._inputs)


def perform_parallel(
    tasks: Sequence[Task],
    resources: Resources,
    *,
    address: str | None = None,
    verbose: bool = False,
) -> Generator[tuple[Task, Event]]:
    """[2] Performs the stages of a run one after the other, and yields their events.

    Trainings of one stage do not depend on each other: where the cluster holds several, they run
    in parallel. What is left, one group of workers performs in order.

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
    with connected(address, verbose), closing(_Pool(resources)) as pool:
        in_order: list[Task] = []
        for _, group in groupby(tasks, key=lambda task: task.stage.name):
            stage = list(group)
            placement, slots = share_parallel(resources, len(stage), cluster_nodes())
            if slots == 1:
                in_order += stage
                continue
            yield from _in_order(in_order, resources, verbose, pool)
            in_order = []
            yield from _in_parallel(stage, placement, slots, pool)
        yield from _in_order(in_order, resources, verbose, pool)


def _in_order(
    tasks: Sequence[Task], resources: Resources, verbose: bool, pool: "_Pool"
) -> Iterator[tuple[Task, Event]]:
    """On a group of workers; or on a lone worker without Ray Train, where that has nothing to give.

    Its controller takes longer to start and to end than a small training takes. It is worth it to
    workers that share their steps, and to one that may get a notice that its machine will be taken
    away, which it then checkpoints for.
    """
    if not tasks:
        return
    alone = resources.most_workers == 1 and not resources.elastic
    steps = any(task.stage.training for task in tasks)
    if alone and not (steps and watches_nodes()):
        placement, _ = share_parallel(resources, 1, cluster_nodes())
        yield from _in_parallel(tasks, placement, 1, pool)
    else:
        pool.close()  # the group needs the place
        yield from perform_on_ray(tasks, resources, verbose=verbose)


def _in_parallel(
    tasks: Sequence[Task], placement: Placement, slots: int, pool: "_Pool"
) -> Iterator[tuple[Task, Event]]:
    run = to_path(tasks[0].run)
    several = f"{slots} trainings in parallel, " if slots > 1 else ""
    yield tasks[0], Waiting(f"Starting {several}{counted(placement)}")
    with scratch_folder(run, "ray") as probe:
        check_nodes(run, probe, placement)
    alone = placement.workers == 1
    groups = groups_of(tasks, slots) if alone else [[task] for task in tasks]
    pool.begin(groups, placement, min(slots, len(groups)))
    yield from relay(pool.mailbox, tasks[0], pool.is_busy)
    if pool.failures:
        raise pool.failures[0]


class _Pool:
    """[2] The performers, which task each has, and the errors of tasks that failed.

    A performer lives as long as the run, for as long as its tasks want the same placement.
    """

    def __init__(self, resources: Resources):
        self.failures: list[KdRayError] = []
        self._resources, self._most_lost = resources, resources.max_failures
        self._placement: Placement | None = None
        self._waiting: deque[Sequence[Task]] = deque()
        self._running: dict[Any, tuple[Any, Sequence[Task]]] = {}
        self._idle: list[Any] = []
        self._lost: Counter[str] = Counter()

    @cached_property
    def mailbox(self) -> Mailbox:
        """What the performers send."""
        return Mailbox()

    def begin(self, groups: Sequence[Sequence[Task]], placement: Placement, slots: int) -> None:
        """Hands groups of tasks out to so many performers; only once the last ones are over."""
        if placement != self._placement:
            self.close()
        self._placement = placement
        self._waiting = deque(groups)
        self._one_after_the_other = slots == 1
        for _ in range(slots):
            self._next(self._idle.pop() if self._idle else self._performer())

    def _performer(self) -> Any:
        import ray

        assert self._placement is not None
        options = beside_driver()  # several workers of one training ask for themselves
        if self._placement.workers == 1:
            options = {"num_cpus": self._placement.cpus, "num_gpus": self._placement.gpus}
            options["scheduling_strategy"] = "SPREAD"
        kind = ray.remote(max_restarts=0, max_task_retries=0, **options)(Performer)
        return kind.remote(self._resources, self._placement, self.mailbox)

    def is_busy(self) -> bool:
        """Whether a task is not over yet; a performer whose task is over gets the next."""
        import ray

        over, _ = ray.wait(list(self._running), timeout=0)
        for done in over:
            self._after(done)
        return bool(self._running)

    def close(self) -> None:
        """Ends every performer; what was finished is on disk."""
        import ray

        for performer in (*(busy for busy, _ in self._running.values()), *self._idle):
            ray.kill(performer)  # one that only loses its last handle may hang as it exits
        self._running.clear()
        self._idle.clear()

    def _next(self, performer: Any) -> None:
        """Gives a performer the next group, if there is one."""
        if self._waiting:
            group = self._waiting.popleft()
            self._running[performer.perform.remote(group)] = (performer, group)
        else:
            self._idle.append(performer)

    def _after(self, done: Any) -> None:
        """Looks at what has become of a group of tasks."""
        import ray
        from ray.exceptions import RayActorError

        performer, group = self._running.pop(done)
        title = group[0].title
        try:
            failure = ray.get(done)
        except RayActorError as error:
            self._lost[title] += 1
            if self._lost[title] > self._most_lost >= 0:
                raise died_too_often(f"{title}: its worker", error) from None
            self._waiting.append(group)
            performer = self._performer()
        else:
            if failure:
                self.failures.append(failure)
                if self._one_after_the_other:  # what comes after needs it
                    self._waiting.clear()
        self._next(performer)
