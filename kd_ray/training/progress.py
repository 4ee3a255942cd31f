"""The events of a training, and the state that one epoch hands to the next."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kd_ray.config import Train


@dataclass(frozen=True)
class Step:
    """A place inside an epoch, for progress displays; there are at most two a second."""

    epoch: int
    done: int
    steps: int
    images_per_s: float


@dataclass(frozen=True)
class Notice:
    """A machine will be taken away; what `Training` holds now is worth a checkpoint."""

    epoch: int
    done: int
    steps: int


@dataclass(frozen=True)
class Leg:
    """A part of a long epoch is done: what `Training` holds now may be kept, and gone on from."""

    epoch: int
    done: int
    steps: int


@dataclass(frozen=True)
class Epoch:
    """A finished epoch.

    Attributes:
        number: 1-based.
        metrics: train_loss, hard_loss, soft_loss, train_accuracy, learning_rate, gradient_norm, and
            where there are validation rows, the figures of `metrics.summarize` on them; of a taught
            student now and then those of `watch.pulls`.
        seconds: duration of training and evaluation.
        images_per_s: rate of training alone, over all workers.
        layers: figures of `quant.activity` for a quantized model, else None.
    """

    number: int
    metrics: dict[str, float]
    seconds: float
    images_per_s: float
    layers: dict[str, dict[str, Any]] | None = None

    def record(self) -> dict[str, Any]:
        """One flat line of a run's history."""
        return {
            "epoch": self.number,
            **self.metrics,
            "seconds": round(self.seconds, 4),
            "images_per_s": round(self.images_per_s, 1),
            **({} if self.layers is None else {"layers": self.layers}),
        }


@dataclass(frozen=True)
class EpochPart:
    """The steps of an epoch before a notice that came in the middle of it, or the end of a leg.

    `sums` are over these steps and all workers, see `epoch.step_sums`; `norms` are the gradient's
    at the steps where they were computed.
    """

    steps: int
    sums: list[float]
    norms: list[float]


@dataclass
class Training:
    """What one epoch hands to the next; a checkpoint holds exactly this.

    Attributes:
        model: float weights in place.
        optimizer: optimizer of the model's parameters.
        epoch: number of finished epochs.
        best_epoch: the one with the best validation accuracy, 0 before there is one.
        best_accuracy: its accuracy on the validation rows.
        history: a record for each finished epoch.
        part: the part of the next epoch that is done already; None at its beginning.
        fused: whether its epochs are trained with those of others, which decides on the last bits;
            None where that is still to be found out.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    part: EpochPart | None = None
    fused: bool | None = None

    def note(self, epoch: Epoch) -> None:
        """Counts a finished epoch in."""
        self.epoch = epoch.number
        self.part = None
        self.history.append(epoch.record())
        accuracy = epoch.metrics.get("accuracy")
        if accuracy is not None and accuracy > self.best_accuracy:
            self.best_epoch, self.best_accuracy = epoch.number, accuracy

    def is_over(self, options: Train) -> bool:
        """Whether all epochs are done, or patience has run out."""
        waited = self.epoch - self.best_epoch
        impatient = options.patience is not None and waited >= options.patience
        return self.epoch >= options.epochs or (impatient and self.best_epoch > 0)

    def result_epoch(self, options: Train) -> int:
        """Which epoch's weights are the result so far."""
        return self.best_epoch if options.keep == "best" and self.best_epoch else self.epoch
