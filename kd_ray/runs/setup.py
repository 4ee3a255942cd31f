"""What `train` needs to know of a model that is to be trained, whichever stage asks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kd_ray.config import Train
from kd_ray.training.checkpoint import Meta
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import MEAN_OF_ALL, Ensemble
from kd_ray.training.progress import Epoch, Notice, Step, Training


@dataclass(frozen=True)
class Setup:
    """A training that can begin or go on.

    Attributes:
        model: before training.
        about: what its checkpoints say of it, epochs aside.
        options: epochs, schedule, which checkpoints to keep.
        events: the generator that trains.
        test: rows for the final figure.
        ensemble: how teachers are averaged where agreement is measured.
        start: the checkpoint to go on from where there is none of its own, or None.
        details: what else its result is to say.
    """

    model: nn.Module
    about: Meta
    options: Train
    events: Callable[[Training], Iterator[Step | Notice | Epoch]]
    test: TensorFeed
    ensemble: Ensemble = MEAN_OF_ALL
    start: Path | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
