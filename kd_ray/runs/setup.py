"""A training that can begin or go on: what `stages.training` needs to know of any model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kd_ray.config import Train
from kd_ray.training.checkpoint import ModelInput
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import Ensemble
from kd_ray.training.progress import Epoch, Notice, Step, Training


@dataclass(frozen=True)
class Prepared:
    """A training that can begin or go on.

    Attributes:
        kind: of its checkpoints.
        model: before training.
        model_table: catalogue name and options.
        quantizer: `[student.quantizer]`, or None.
        input: what the model is fed.
        class_names: K names.
        options: epochs, schedule, what to keep.
        parents: artefact -> sha256.
        events: the generator that trains.
        test: rows for the final figure.
        ensemble: how teachers are averaged where agreement is measured.
        start: checkpoint to go on from where there is none of its own, or None for new weights.
        special: numbers of a specialist's classes; None of other models.
        told: what else its result is to say.
    """

    kind: Literal["teacher", "specialist", "student"]
    model: nn.Module
    model_table: dict[str, Any]
    quantizer: dict[str, Any] | None
    input: ModelInput
    class_names: list[str]
    options: Train
    parents: dict[str, str]
    events: Callable[[Training], Iterator[Step | Notice | Epoch]]
    test: TensorFeed
    ensemble: Ensemble
    start: Path | None = None
    special: list[int] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
