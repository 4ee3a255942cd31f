"""Trainings that differ in numbers alone, performed as one; each is a task as before."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain, groupby, pairwise
from pathlib import Path

import torch

from kd_ray.errors import ConfigError, TrainingError
from kd_ray.own_code import allow
from kd_ray.runs.events import Event, Failed, Grouped, GroupEvent, Waiting
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
        alike: dict[str | Path, list[Task]] = {}
        for task in some:
            alike.setdefault(task.stage.alike(task) or task.folder, []).append(task)
        found += chain.from_iterable(alike.values())
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
    fuse = tasks[0].recipe.resources.fuse
    demand = None if fuse == "auto" else f"resources.fuse: {fuse}"
    failures: list[Exception] = []
    with closing(perform_together(tasks, worker, inputs or Inputs(), demand=demand)) as events:
        for task, event in events:
            if isinstance(event, Failed):
                failures.append(event.error)
                if not isinstance(event.error, TrainingError):
                    break
            elif not isinstance(event, Grouped):
                yield task, event
    if failures:
        raise failures[-1] if not isinstance(failures[-1], TrainingError) else failures[0]


def perform_together(
    tasks: Sequence[Task],
    worker: Worker,
    inputs: Inputs,
    *,
    demand: str | None = None,
    is_over: Callable[[Task], bool] = lambda task: False,
) -> Generator[tuple[Task, GroupEvent]]:
    """Performs trainings that are alike, an epoch of all at a time, as one where that is faster.

    Args:
        tasks: of one or several runs.
        worker: this process.
        inputs: of this process.
        demand: what says that they must be trained as one, key and number; None if they need not.
        is_over: whether a training is to end with the epoch it is at; it leaves its place.

    Raises:
        ConfigError: they must be trained as one and cannot be.
    """
    torch.set_num_threads(worker.threads)
    for task in tasks:
        allow(task.recipe.own_code, task.recipe.code)
    with ExitStack() as stack:
        for first in {task.run: task for task in reversed(tasks)}.values():
            stack.enter_context(writing(first, worker))
        running: _Running = {}
        for task in tasks:
            seconds = max(task.checkpoint_s, SPARING_S * len(tasks))
            sparing = replace(task, fused=True, checkpoint_s=seconds)
            events = task.stage.perform(sparing, worker, inputs)
            running[task.folder] = (task, stack.enter_context(closing(events)))
        ready: dict[Path, Turn] = {}
        while running:
            for place in [place for place in running if place not in ready]:
                yield from _until_ready(place, running, ready)
            for place in [place for place, (task, _) in running.items() if is_over(task)]:
                running.pop(place)[1].close()
                ready.pop(place, None)
            if ready:
                number = min(turn.number for turn in ready.values())
                turns = {place: turn for place, turn in ready.items() if turn.number == number}
                of_turns = [running[place][0] for place in turns]
                known = {turn.training.fused for turn in ready.values()} - {None}
                yield from _settled(of_turns, list(turns.values()), worker, demand, known)
                yield from _train(of_turns, list(turns.values()), worker)
                ready = {place: turn for place, turn in ready.items() if place not in turns}


_Running = dict[Path, tuple[Task, Generator[Event]]]


def _until_ready(
    place: Path, running: _Running, ready: dict[Path, Turn]
) -> Iterator[tuple[Task, GroupEvent]]:
    """Performs a training until its next epoch, or its end, after which it is not running."""
    task, events = running[place]
    try:
        for event in events:
            if isinstance(event, Turn):
                ready[place] = event
                return
            yield task, event
    except Exception as error:
        yield task, Failed(error)
    del running[place]


def _settled(
    tasks: Sequence[Task],
    turns: Sequence[Turn],
    worker: Worker,
    demand: str | None,
    known: set[bool | None],
) -> Iterator[tuple[Task, GroupEvent]]:
    """Settles how those are trained that begin: as others of the group, or as is faster."""
    new = [turn for turn in turns if turn.training.fused is None]
    if not new:
        return
    if not known and len(turns) > 1 and demand is None:
        yield tasks[0], Waiting(f"Trying {len(turns)} students as one")
    as_one = True in known if known else _is_fused(turns, worker, demand)
    if known or len(turns) > 1:
        yield tasks[0], Grouped(as_one)
    for turn in new:
        turn.training.fused = as_one
    together = [turn for turn in turns if turn.training.fused]
    if together and (most := most_in_memory(together)) < len(together):
        yield tasks[0], Waiting(f"Memory holds {most} of {len(together)} students at a time")


def _train(
    tasks: Sequence[Task], turns: Sequence[Turn], worker: Worker
) -> Iterator[tuple[Task, GroupEvent]]:
    """Trains the next epoch of each, as one or one after the other."""
    joined = []
    for task, turn in zip(tasks, turns, strict=True):
        if turn.training.fused:
            joined.append((task, turn))
            continue
        try:
            yield from ((task, event) for event in _alone(turn, worker))
        except Exception as error:
            yield task, Failed(error)
    most = most_in_memory([turn for _, turn in joined]) if joined else 1
    for start in range(0, len(joined), most):
        part = joined[start : start + most]
        for step in train_together([turn for _, turn in part], worker):
            yield from ((task, step) for task, _ in part)


def _alone(turn: Turn, worker: Worker) -> Iterator[Event]:
    """Trains an epoch of one of a group; such epochs have no checkpoints within them."""
    for event in train_epoch(turn, turn.training.model, worker):
        if not isinstance(event, Leg):
            yield event


def _is_fused(turns: Sequence[Turn], worker: Worker, demand: str | None) -> bool:
    if len(turns) == 1:
        return False
    problem = obstacle(turns, worker)
    if demand is not None and problem is not None:
        raise ConfigError(
            f'{demand} students must be trainable as one, but {problem}; use fuse = "auto", or 1'
        )
    return problem is None and (demand is not None or is_faster(turns, worker))
