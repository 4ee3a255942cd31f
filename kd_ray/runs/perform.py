"""Performing tasks: one after the other, or trainings interleaved by their epochs."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import torch

from kd_ray.files import locked
from kd_ray.own_code import allow
from kd_ray.runs.events import Event, Started
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.task import Task
from kd_ray.training.progress import Epoch
from kd_ray.training.workers import Worker, together

ORPHAN_WAIT_S = 60.0


def perform_all(
    tasks: Iterable[Task], worker: Worker, inputs: Inputs | None = None
) -> Iterator[tuple[Task, Event]]:
    """Performs tasks of one run in order on this worker; all workers of a group call it alike.

    Args:
        tasks: of one run folder.
        worker: this process.
        inputs: of a process that performs others after these; None for one of its own.

    Raises:
        KdRayError: on all workers alike, if a task fails on one of them.
    """
    torch.set_num_threads(worker.threads)
    inputs = inputs or Inputs()
    for task in tasks:
        allow(task.recipe.own_code, task.recipe.code)
        with writing(task, worker):
            for event in task.stage.perform(task, worker, inputs):
                yield task, event


def perform_interleaved(
    tasks: Sequence[Task], worker: Worker, inputs: Inputs | None = None
) -> Generator[tuple[Task, Event]]:
    """Performs trainings an epoch each in turn, so that none is far ahead; see `perform_all`."""
    torch.set_num_threads(worker.threads)
    inputs = inputs or Inputs()
    for task in tasks:
        allow(task.recipe.own_code, task.recipe.code)
    with writing(tasks[0], worker), ExitStack() as stack:
        running = {}
        for task in tasks:
            events = task.stage.perform(task, worker, inputs)
            running[task.title] = (task, stack.enter_context(closing(events)))
        done = dict.fromkeys(running, -1)
        while running:
            behind = min(running, key=lambda title: done[title])
            task, events = running[behind]
            for event in events:
                yield task, event
                if isinstance(event, Started | Epoch):
                    done[behind] = event.done if isinstance(event, Started) else event.number
                    break
            else:
                del running[behind]


@contextmanager
def writing(task: Task, worker: Worker) -> Iterator[None]:
    """Holds a task's folder for its one writer."""
    with ExitStack() as stack:
        with together(worker.device):
            if worker.is_first:
                # An orphan of a killed driver lives on for seconds and must not write along.
                stack.enter_context(locked(task.folder, wait_s=ORPHAN_WAIT_S))
        yield
