"""Making an artefact that is no model, from wherever an earlier attempt left off."""

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from kd_ray.files import remove_drafts
from kd_ray.result import read_result, write_result
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import finished_result, record
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.task import Task
from kd_ray.training.workers import Worker, from_first, together

Source = TypeVar("Source")
Made = tuple[dict[str, Any], int]
"""Fields of the artefact's record, and how many rows were computed for it just now."""


def make(
    opened: Callable[[Task, Worker, Inputs], tuple[Source, dict[str, str]]],
    made: Callable[[Task, Worker, Source], Generator[Event, None, Made]],
    task: Task,
    worker: Worker,
    inputs: Inputs,
) -> Generator[Event]:
    """Makes the artefact of a task; all workers of a group call it alike.

    Args:
        opened: what it is made from, and the sha256 of these parents.
        made: makes it, on all workers together; what the first one returns goes into the record.
        task: of a stage that trains nothing.
        worker: this process.
        inputs: what it shares with other tasks.
    """
    with together(worker.device):
        source, parents = opened(task, worker, inputs)
        result = finished_result(task, parents)
    if from_first(int(result is not None), worker.device):
        assert result is not None  # as on the first worker
        yield Finished(result, existed=True)
        return
    yield Started(0, 0)
    started = time.perf_counter()
    with together(worker.device):  # no worker may write before old drafts are gone
        if worker.is_first:
            remove_drafts(task.folder)
    fields, rows = yield from made(task, worker, source)
    seconds = time.perf_counter() - started
    with together(worker.device):
        if worker.is_first:
            rate = {"images_per_s": round(rows / seconds, 1)} if rows else {}
            pace = {"seconds": round(seconds, 2), "resumed_from": None, **rate}
            write_result(task.folder, record(task, parents=parents, **pace, **fields))
    with together(worker.device):
        result = read_result(task.folder)
        assert result is not None  # written just now
        yield Finished(result, existed=False)
