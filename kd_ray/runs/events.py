"""What performing a task tells whoever listens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.runs.labelling import ShardDone
from kd_ray.training.progress import Epoch, Notice, Step


@dataclass(frozen=True)
class Waiting:
    """Something that takes a while goes on before any task can begin.

    Attributes:
        what: as one would say it.
    """

    what: str


@dataclass(frozen=True)
class Started:
    """A task begins.

    Attributes:
        epochs: in all; 0 for labelling.
        done: epochs that an earlier run had finished.
        history: a record for each of these.
    """

    epochs: int
    done: int
    history: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Finished:
    """A task's artefact is whole.

    Attributes:
        result: content of its `result.json`.
        found: whether an earlier run had finished it.
    """

    result: dict[str, Any]
    found: bool


Event = Waiting | Started | Step | Notice | Epoch | ShardDone | Finished
