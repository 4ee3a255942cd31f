"""Trials side by side: each is told epoch by epoch as the mean over its students.

The same code runs inside a Tune actor, as a driver of a nested Ray Train run, and in this process.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from kd_ray.config import Recipe
from kd_ray.errors import ClusterError, KdRayError, StorageError
from kd_ray.result import Result
from kd_ray.runs import Event, Finished, Inputs, Started, Task, perform_interleaved
from kd_ray.runs.distill import DISTILL
from kd_ray.runs.events import Failed, Grouped, GroupEvent
from kd_ray.runs.together import perform_together, sorted_alike
from kd_ray.runs.variants import own_variant
from kd_ray.training.progress import Epoch
from kd_ray.training.workers import Worker

CHECKPOINT_S = 2.0
"""Between two checkpoints of a student; epochs of a trial may take milliseconds."""

COSTS = ("packed_bytes", "bit_operations")


@dataclass(frozen=True)
class TrialEpoch:
    """All students of a trial have finished an epoch of so many, or had ended before it.

    Metrics are of the validation rows and of training, means over the seeds. An awaited one has
    its checkpoints, and is the only kind after which a trial can be stopped. Seconds are of all
    training so far, summed over the seeds.
    """

    number: int
    epochs: int
    metrics: dict[str, float]
    awaited: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class TrialEnd:
    """What a trial comes to; why it failed, or means over its seeds.

    Attributes:
        metrics: on the validation rows, and the model's costs.
        history: metrics after each epoch, in order.
        epochs: that were trained.
        seconds: of training, summed over the seeds, in this and earlier processes.
        cause: of a failure.
        error: of the machine, such as a full disk; the trial has neither ended nor failed.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    cause: str | None = None
    error: KdRayError | None = None


Report = TrialEpoch | TrialEnd | Grouped
"""What is told of a trial; `Grouped` of the first ones, whether they are trained as one."""
Events = Generator[tuple[Task, GroupEvent]]


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial's students lie below a sweep's folder."""
    return sweep / f"trial-{number:04d}"


def trial_tasks(
    recipe: Recipe,
    sweep: Path,
    number: int,
    *,
    transfer_set: Path,
    data_root: str | None,
    awaited: frozenset[int] = frozenset(),
) -> list[Task]:
    """The students of a trial with its recipe, a task for each seed; all folders are absolute."""
    stored = recipe.transfer_set.model_copy(update={"path": str(transfer_set)})
    recipe = recipe.model_copy(update={"transfer_set": stored})
    first = Task(
        DISTILL,
        recipe=recipe,
        run=str(trial_folder(sweep, number)),
        data_root=data_root,
        variant=own_variant(recipe),
        parents={"sweep": recipe.name, "trial": str(number)},
        touch_test=False,
        checkpoint_s=CHECKPOINT_S,
        awaited=awaited,
    )
    return [replace(first, seed=seed) for seed in recipe.train.seeds]


class Block:
    """Trials that are trained side by side, told epoch by epoch.

    Attributes:
        over: numbers of those that have ended, failed or been stopped; whoever stops one adds it
            before the next report is asked for.
    """

    def __init__(
        self,
        tasks: Mapping[int, Sequence[Task]],
        perform: Callable[[Sequence[Task], Callable[[Task], bool]], Events],
        halted: Callable[[], bool] = lambda: False,
    ):
        """Trials by their numbers.

        Args:
            tasks: number -> the tasks of a trial.
            perform: performs tasks, those of one trial without one being an epoch ahead of
                another; a task that is over by the given function it leaves as it is.
            halted: asked at every event, also within an epoch; once it is true nothing more comes.
        """
        self.over: set[int] = set()
        self._tellings = {number: _Telling(some) for number, some in tasks.items()}
        self._tasks = [task for some in tasks.values() for task in some]
        self._numbers = {task.run: number for number, some in tasks.items() for task in some}
        self._perform, self._halted = perform, halted

    def _is_over(self, task: Task) -> bool:
        return self._numbers[task.run] in self.over

    def reports(self) -> Generator[tuple[int, Report]]:
        """What is told of which trial; the last of one that is not stopped is a `TrialEnd`."""
        try:
            with closing(self._perform(self._tasks, self._is_over)) as events:
                for task, event in events:
                    if self._halted():
                        return
                    if self._is_over(task):
                        continue
                    number = self._numbers[task.run]
                    for report in self._reports(number, task, event):
                        if isinstance(report, TrialEnd):
                            self.over.add(number)
                        yield number, report
        except KdRayError as error:  # of no trial's own
            yield min(self._tellings.keys() - self.over or self._tellings), TrialEnd(error=error)
        except Exception as error:
            for number in self._tellings.keys() - self.over:
                yield number, _failure(error)

    def _reports(self, number: int, task: Task, event: GroupEvent) -> Iterator[Report]:
        if isinstance(event, Grouped):
            yield event
        elif isinstance(event, Failed):
            yield _failure(event.error)
        else:
            yield from self._tellings[number].heard(task, event)


def perform_side_by_side(
    worker: Worker,
    inputs: Inputs,
    fuse: int | Literal["auto"],
    tasks: Sequence[Task],
    is_over: Callable[[Task], bool],
) -> Events:
    """Performs the tasks of a block in this process, those that are alike as one where it pays.

    Args:
        worker: this process.
        inputs: of this process.
        fuse: see `SweepOptions.fuse`.
        tasks: of all trials.
        is_over: see `Block`.
    """
    trials = len({task.run for task in tasks})
    key = (lambda task: task.run) if fuse == 1 else (lambda t: t.stage.alike(t) or t.run)
    groups = [list(group) for _, group in groupby(sorted_alike(tasks), key=key)]
    if 1 < trials == len(groups):
        yield tasks[0], Grouped(as_one=False)
    for group in groups:
        events: Events
        if fuse == 1 or len(group) == 1:
            events = _alone(group, worker, inputs)
        else:
            demand = None if fuse == "auto" else f"sweep.fuse: {fuse}"
            events = perform_together(group, worker, inputs, demand=demand, is_over=is_over)
        with closing(events):
            for task, event in events:
                yield task, event
                if all(map(is_over, group)):
                    break


def _alone(tasks: Sequence[Task], worker: Worker, inputs: Inputs) -> Events:
    """Performs one trial."""
    try:
        yield from perform_interleaved(tasks, worker, inputs)
    except Exception as error:
        yield tasks[0], Failed(error)


def _failure(error: Exception) -> TrialEnd:
    """A sweep goes on without the trial, whatever it was, unless it was the machine."""
    if isinstance(error, StorageError | ClusterError):
        return TrialEnd(error=error)
    if isinstance(error, KdRayError):
        return TrialEnd(cause=str(error))
    lines = str(error).strip().splitlines()  # Ray puts a traceback before what went wrong
    return TrialEnd(cause=f"{type(error).__name__}: {lines[-1] if lines else 'no message'}")


class _Telling:
    """What the students of a trial come to, told as the mean over them."""

    def __init__(self, tasks: Sequence[Task]):
        self._epochs = tasks[0].recipe.train.epochs
        self._histories: dict[str, list[dict[str, Any]]] = {task.title: [] for task in tasks}
        self._results: dict[str, Result] = {}
        self._number = 0

    def heard(self, task: Task, event: Event) -> Iterator[TrialEpoch | TrialEnd]:
        """What an event of one of the students comes to for the trial."""
        histories, results = self._histories, self._results
        if isinstance(event, Started):
            histories[task.title] = list(event.history)
        elif isinstance(event, Epoch):
            histories[task.title].append(event.record())
        elif isinstance(event, Finished):
            results[task.title] = event.result
            histories[task.title] = event.result.history
        going = [len(past) for title, past in histories.items() if title not in results]
        reached = min(going, default=max(map(len, histories.values())))
        if reached > self._number:
            self._number = reached
            # One that a student is past was not the end of an earlier attempt, nor is it now.
            is_last = reached == max(map(len, histories.values()))
            awaited = is_last and reached in task.awaited
            seconds = sum(one["seconds"] for past in histories.values() for one in past)
            yield TrialEpoch(reached, self._epochs, _after(reached, histories), awaited, seconds)
        if len(results) == len(histories):
            yield _end(histories, list(results.values()))


def _after(epoch: int, histories: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Means after an epoch; a student that ended before it stays what it was."""
    return averaged([past[min(epoch, len(past)) - 1] for past in histories.values()])


def _end(histories: dict[str, list[dict[str, Any]]], results: list[Result]) -> TrialEnd:
    longest = max(len(past) for past in histories.values())
    history = [_after(epoch, histories) for epoch in range(1, longest + 1)]
    costs = [{name: getattr(result, name) for name in COSTS} for result in results]
    return TrialEnd(
        metrics={**averaged([result.metrics for result in results]), **averaged(costs)},
        history=history,
        epochs=longest,
        seconds=round(sum(result.seconds for result in results), 3),
    )


def averaged(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of the numbers that all records have.

    >>> averaged([{"loss": 1.0, "layers": {}}, {"loss": 2.0}])
    {'loss': 1.5}
    """
    return {
        name: mean(record[name] for record in records)
        for name, value in records[0].items()
        if isinstance(value, int | float) and all(name in record for record in records)
    }
