"""Trainings that differ in numbers alone, performed as one; each is a task as before."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import groupby, pairwise

import torch

from kd_ray.errors import ConfigError, KdRayError, TrainingError
from kd_ray.own_code import allow
from kd_ray.runs.events import Event, Waiting
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.perform import perform_all, writing
from kd_ray.runs.task import Task
from kd_ray.training.epoch import Turn, train_epoch
from kd_ray.training.fused import is_faster, most_in_memory, obstacle, train_together
from kd_ray.training.progress import Leg
from kd_ray.training.workers import Worker

MOST = 64
"""Students that are trained as one where it is not said how many may be."""
SPARING_S = 0.2
"""From one checkpoint of a student to the next, for each student of its group: an epoch of small
ones takes less time than all their checkpoints would."""


def groups_of(tasks: Sequence[Task], slots: int = 1) -> list[list[Task]]:
    """Tasks in their order, those in groups that may be trained as one.

    Args:
        tasks: of one run, in an order in which they can be performed.
        slots: how many groups can be performed at the same time, which none is too large for.
    """
    found: list[list[Task]] = []
    for alike, some in groupby(sorted_alike(tasks), key=lambda task: task.stage.alike(task)):
        group = list(some)
        fuse = group[0].recipe.resources.fuse
        most = 1 if alike is None else MOST if fuse == "auto" else fuse
        parts = max(-(-len(group) // most), min(slots, len(group)))
        bounds = [len(group) * part // parts for part in range(parts + 1)]
        found += [group[start:stop] for start, stop in pairwise(bounds)]
    return found


def sorted_alike(tasks: Sequence[Task]) -> list[Task]:
    """The tasks of each stage with those together that are alike, else in their order."""
    found: list[Task] = []
    for _, some in groupby(tasks, key=lambda task: task.stage.name):
        stage = list(some)
        first = {task.stage.alike(task): place for place, task in reversed(list(enumerate(stage)))}
        places = {task.title: place for place, task in enumerate(stage)}

        def place(task: Task, first: dict[str | None, int] = first) -> int:
            alike = task.stage.alike(task)
            return places[task.title] if alike is None else first[alike]  # noqa: B023

        found += sorted(stage, key=place)
    return found


def perform_group(
    tasks: Sequence[Task], worker: Worker, inputs: Inputs | None = None
) -> Generator[tuple[Task, Event]]:
    """Performs a group of `groups_of`; see `perform_all` for arguments and errors.

    A training whose loss is no longer finite fails alone: the others are performed to their ends.
    """
    if len(tasks) == 1:
        yield from perform_all(tasks, worker, inputs)
        return
    torch.set_num_threads(worker.threads)
    inputs = inputs or Inputs()
    for task in tasks:
        allow(task.recipe.own_code, task.recipe.code)
    failures: list[KdRayError] = []
    with writing(tasks[0], worker), ExitStack() as stack:
        running: _Running = {}
        for task in tasks:
            seconds = max(task.checkpoint_s, SPARING_S * len(tasks))
            sparing = replace(task, fused=True, checkpoint_s=seconds)
            events = task.stage.perform(sparing, worker, inputs)
            running[task.title] = (task, stack.enter_context(closing(events)))
        ready: dict[str, Turn] = {}
        while running:
            for title in [title for title in running if title not in ready]:
                yield from _until_ready(title, running, ready, failures)
            if ready:
                number = min(turn.number for turn in ready.values())
                turns = {title: turn for title, turn in ready.items() if turn.number == number}
                of_group = [running[title][0] for title in turns]
                yield from _train(of_group, list(turns.values()), worker)
                ready = {title: turn for title, turn in ready.items() if title not in turns}
    if failures:
        raise failures[0]


_Running = dict[str, tuple[Task, Generator[Event]]]


def _until_ready(
    title: str, running: _Running, ready: dict[str, Turn], failures: list[KdRayError]
) -> Iterator[tuple[Task, Event]]:
    """Performs a training until its next epoch, or its end, after which it is not running."""
    task, events = running[title]
    try:
        for event in events:
            if isinstance(event, Turn):
                ready[title] = event
                return
            yield task, event
    except TrainingError as error:
        failures.append(error)
    del running[title]


def _train(
    tasks: Sequence[Task], turns: Sequence[Turn], worker: Worker
) -> Iterator[tuple[Task, Event]]:
    """Trains the next epoch of each, as one or one after the other."""
    known = {turn.training.fused for turn in turns} - {None}
    if not known:
        yield tasks[0], Waiting(f"Trying {len(turns)} students as one")
        known = {_is_fused(tasks[0], turns, worker)}
        if True in known and (most := most_in_memory(turns)) < len(turns):
            yield tasks[0], Waiting(f"Memory holds {most} of {len(turns)} students at a time")
    for turn in turns:
        turn.training.fused = True in known
    if True not in known:
        for task, turn in zip(tasks, turns, strict=True):
            yield from ((task, event) for event in _alone(turn, worker))
        return
    most = most_in_memory(turns)
    for start in range(0, len(turns), most):
        for step in train_together(turns[start : start + most], worker):
            for task in tasks[start : start + most]:
                yield task, step


def _alone(turn: Turn, worker: Worker) -> Iterator[Event]:
    """Trains an epoch of one of a group; such epochs have no checkpoints within them."""
    for event in train_epoch(turn, turn.training.model, worker):
        if not isinstance(event, Leg):
            yield event


def _is_fused(task: Task, turns: Sequence[Turn], worker: Worker) -> bool:
    fuse, problem = task.recipe.resources.fuse, obstacle(turns, worker)
    if fuse != "auto" and problem is not None:
        raise ConfigError(
            f"resources.fuse: {fuse} students must be trainable as one, but {problem}; "
            'use fuse = "auto", or 1'
        )
    return problem is None and (fuse != "auto" or is_faster(turns, worker))
