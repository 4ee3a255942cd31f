"""What a student does on a fixed sample of its rows: its low-bit layers, and what pulls at it.

The figures are for whoever looks on. Nothing that is trained depends on them.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kd_ray.batch import Batch
from kd_ray.config import SoftWeight
from kd_ray.quant import activity, is_quantized
from kd_ray.quant.trace import evaluated
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.epoch import TrainingEvent
from kd_ray.training.evaluation import EVALUATION_ROWS
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import soft_targets
from kd_ray.training.progress import Epoch, Training

WATCHED_ROWS, STRETCHES = 512, 8
"""Rows of the sample, and in how many stretches they lie: rows may be sorted by class, and those
that are streamed come in groups."""
NO_WEIGHT = SoftWeight(factor=0.0, times_temperature_squared=False)


def watched(
    events: Iterator[TrainingEvent],
    training: Training,
    feed: TensorFeed,
    loss: BatchLoss | None,
    epochs: int,
) -> Iterator[TrainingEvent]:
    """The events of a student's training, with more figures in its epochs.

    Args:
        events: as `loop.fit` yields them.
        training: its history gets the figures, too.
        feed: the rows that it learns from.
        loss: its objective; None where that needs more than the feed has.
        epochs: of the whole run.
    """
    taught = loss is not None and loss.objective.is_taught and feed.logits is not None
    is_low_bit = is_quantized(training.model)
    sample = sample_of(feed) if is_low_bit else None
    for event in events:
        if isinstance(event, Epoch):
            if sample is not None:
                event = replace(event, layers=activity(training.model, sample.images))
            if taught and is_looked_at(event.number, epochs):
                assert loss is not None
                # Large images are not kept for a few looks.
                seen = pulls(training.model, sample or sample_of(feed), loss, event.number / epochs)
                event = replace(event, metrics={**event.metrics, **seen, "views": int(feed.views)})
            training.history[-1] = event.record()
        yield event


def sample_of(feed: TensorFeed) -> Batch:
    """The plain images of some rows, of the same ones for every student."""
    rows, each = torch.arange(feed.rows), WATCHED_ROWS // STRETCHES
    if feed.rows > WATCHED_ROWS:
        starts = torch.arange(STRETCHES) * (feed.rows - each) // (STRETCHES - 1)
        rows = (starts[:, None] + torch.arange(each)).flatten()
    return feed.batch(rows, slice(None), 1)


def is_looked_at(epoch: int, epochs: int) -> bool:
    """Whether to look at what pulls: after epochs 1, 2, 4, 8, ... and the last, for little time.

    >>> [epoch for epoch in range(1, 13) if is_looked_at(epoch, 12)]
    [1, 2, 4, 8, 12]
    """
    return epoch & (epoch - 1) == 0 or epoch == epochs


def pulls(model: nn.Module, batch: Batch, loss: BatchLoss, progress: float) -> dict[str, float]:
    """How the two terms of a loss pull at a student when a share of its run is done.

    The model is in evaluation mode for it and stays as it is.

    Returns:
        `hard_gradient` and `soft_gradient`, the norms of the terms' gradients in the logits, with
        their weights, as the root of the mean square over rows; `target_entropy`, the mean entropy
        of the soft targets at T in nats; `train_agreement`, the share of rows with the teacher's
        top-1.
    """
    with evaluated(model, []), torch.no_grad():
        z = torch.cat([model(some).float() for some in torch.split(batch.images, EVALUATION_ROWS)])
    v = batch.teacher_logits
    assert v is not None  # of a taught student
    targets = soft_targets(v, loss.objective.temperature, loss.ensemble)
    top = soft_targets(v, 1.0, loss.ensemble).argmax(dim=-1)

    def norm(**without: Any) -> float:
        own = replace(loss, objective=loss.objective.model_copy(update=without))
        at = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(own(at, batch, progress).total, at)
        # The loss is a mean over rows, so each row's own gradient is N times as large.
        return float(gradient.norm() * len(z) ** 0.5)

    figures = {
        "hard_gradient": norm(soft_weight=NO_WEIGHT),
        "soft_gradient": norm(hard_weight=0.0),
        "target_entropy": float(torch.special.entr(targets).sum(dim=-1).mean()),
        "train_agreement": float((z.argmax(dim=-1) == top).double().mean()),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}
