"""The events of a task, for terminals, notebooks, sweeps and tests that listen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.result import Result
from kd_ray.training.epoch import TrainingEvent


@dataclass(frozen=True)
class Waiting:
    """Something that takes a while goes on before any task can begin."""

    what: str


@dataclass(frozen=True)
class Started:
    """A task begins.

    Attributes:
        epochs: how many there will be in all; 0 where nothing is trained.
        done: epochs that an earlier attempt had finished.
        history: a record for each of these.
        held: where its rows are held, and why, if that is not on the device as always.
    """

    epochs: int
    done: int
    history: Sequence[dict[str, Any]] = ()
    held: str | None = None


@dataclass(frozen=True)
class ShardDone:
    """One shard of a transfer set is on disk.

    Attributes:
        done_rows: of all_rows, the worker's own; those of earlier attempts included.
        existed: whether an earlier attempt had written it.
        worker: rank of the worker that speaks.
    """

    name: str
    rows: int
    done_rows: int
    all_rows: int
    existed: bool
    worker: int


@dataclass(frozen=True)
class Finished:
    """A task's artefact is whole; maybe an earlier attempt had finished it."""

    result: Result
    existed: bool


@dataclass(frozen=True)
class Failed:
    """A training of a group has failed; the others go on."""

    error: Exception


@dataclass(frozen=True)
class Grouped:
    """It has been found out how trainings of a group are trained: as one, or each alone."""

    as_one: bool


Event = Waiting | Started | TrainingEvent | ShardDone | Finished
GroupEvent = Event | Failed | Grouped
