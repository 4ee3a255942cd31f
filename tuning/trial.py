"""One trial: its students trained interleaved, told epoch by epoch as the mean over their seeds.

The same code runs inside a Tune actor, as a driver of a nested Ray Train run, and in this process.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import ClusterError, KdRayError, StorageError
from kd_ray.result import Result
from kd_ray.runs import Event, Finished, Started, Task
from kd_ray.runs.distill import DISTILL
from kd_ray.runs.variants import own_variant
from kd_ray.training.progress import Epoch

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


def told(
    tasks: Sequence[Task],
    events: Generator[tuple[Task, Event]],
    enough: Callable[[], bool] = lambda: False,
) -> Generator[TrialEpoch | TrialEnd]:
    """Performs a trial; the last thing it yields is a `TrialEnd`, whatever happens in it.

    Args:
        tasks: of one trial.
        events: of their performance, none of them an epoch ahead of another.
        enough: asked at every event, also within an epoch; once it is true, nothing more comes.
    """
    epochs = tasks[0].recipe.train.epochs
    histories: dict[str, list[dict[str, Any]]] = {task.title: [] for task in tasks}
    results: dict[str, Result] = {}
    number = 0
    try:
        for task, event in events:
            if enough():
                return
            if isinstance(event, Started):
                histories[task.title] = list(event.history)
            elif isinstance(event, Epoch):
                histories[task.title].append(event.record())
            elif isinstance(event, Finished):
                results[task.title] = event.result
                histories[task.title] = event.result.history
            going = [len(past) for title, past in histories.items() if title not in results]
            reached = min(going, default=max(map(len, histories.values())))
            if reached > number:
                number = reached
                # One that a student is past was not the end of an earlier attempt, nor is it now.
                is_last = number == max(map(len, histories.values()))
                awaited = is_last and number in task.awaited
                seconds = sum(one["seconds"] for past in histories.values() for one in past)
                yield TrialEpoch(number, epochs, _after(number, histories), awaited, seconds)
        yield _end(histories, list(results.values()))
    except (StorageError, ClusterError) as error:
        yield TrialEnd(error=error)
    except KdRayError as error:
        yield TrialEnd(cause=str(error))
    except Exception as error:  # a sweep goes on without the trial, whatever it was
        lines = str(error).strip().splitlines()  # Ray puts a traceback before what went wrong
        yield TrialEnd(cause=f"{type(error).__name__}: {lines[-1] if lines else 'no message'}")
    finally:
        events.close()


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
