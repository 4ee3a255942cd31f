"""The loss of a batch as a recipe asks for it, of one student or of several trained as one.

What several have in common is computed for all at once; the figures are those of each alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kd_ray.batch import Batch
from kd_ray.config import Objective
from kd_ray.training.losses import (
    MEAN_OF_ALL,
    Ensemble,
    Loss,
    SoftTerm,
    beside,
    distillation_loss,
    hard_loss,
    soft_loss,
    soft_targets,
)
from kd_ray.training.objectives import HINTON, soft_term
from kd_ray.training.workers import summed_with_gradient

ObjectiveFunction = Callable[[Tensor, Batch, float], Loss]
"""(student logits `(N, K)`, batch, share of the run done) -> loss."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch, with c as it stands when a share of the run is done.

    Attributes:
        objective: T, the weights of the terms, and what the soft term learns from.
        smoothing: share of the label's mass that is spread evenly over all K classes.
        ensemble: how the teachers are averaged.
    """

    objective: Objective
    smoothing: float
    ensemble: Ensemble = MEAN_OF_ALL

    def __call__(self, logits: Tensor, batch: Batch, progress: float) -> Loss:
        """See `losses.distillation_loss`; logits are `(N, K)`."""
        return distillation_loss(
            logits,
            batch.labels,
            batch.teacher_logits,
            temperature=self.objective.temperature,
            soft_weight=self.soft_weight(progress),
            hard_weight=self.objective.hard_weight,
            targets=self.objective.targets,
            ensemble=self.ensemble,
            soft_term=self._soft_term,
            smoothing=self.smoothing,
            global_rows=batch.global_rows,
            global_labelled=batch.global_labelled,
        )

    def soft_weight(self, progress: float) -> float:
        """c, when a share of the run is done."""
        objective = self.objective
        return objective.soft_weight.value(objective.temperature) * share_of_weight(
            objective, progress
        )

    @property
    def kind(self) -> tuple[object, ...] | None:
        """Losses of one kind differ in numbers alone; None of one that is only computed alone."""
        objective, ensemble = self.objective, self.ensemble
        if objective.name != HINTON or objective.targets != "teacher":
            return None
        return ensemble.mean, ensemble.weights is None, self.smoothing

    @cached_property
    def _soft_term(self) -> SoftTerm | None:
        objective = self.objective
        term = soft_term(
            objective.name,
            objective.options or {},
            T=objective.temperature,
            ensemble=self.ensemble,
            over_workers=summed_with_gradient,
        )
        return None if objective.name == HINTON else term


def share_of_weight(objective: Objective, progress: float) -> float:
    """The share of c that is in force when a share of the run is done.

    >>> objective = Objective(soft_warmup=0.1, soft_decay=0.5)
    >>> [share_of_weight(objective, progress) for progress in (0.05, 0.5, 1.0)]
    [0.4875, 0.75, 0.5]
    """
    rise = min(1.0, progress / objective.soft_warmup) if objective.soft_warmup else 1.0
    return rise * (1 - objective.soft_decay * progress)


def label_objective(smoothing: float) -> BatchLoss:
    """The loss of a model without a teacher: cross-entropy with labels at T = 1, in nats."""
    return BatchLoss(Objective.model_validate({"soft_weight": 0}), smoothing)


def losses_of_all(
    objectives: Sequence[ObjectiveFunction],
    logits: Tensor,
    batches: Sequence[Batch],
    progresses: Sequence[float],
) -> Loss:
    """The losses of S students, each of its own objective, as tensors `(S,)`.

    Args:
        objectives: S losses of a batch.
        logits: `(S, N, K)`.
        batches: one that all students see, or one for each.
        progresses: the share of each one's run that is done.
    """
    each = batches if len(batches) > 1 else list(batches) * len(objectives)
    of_kind: dict[object, list[int]] = {}
    for place, loss in enumerate(objectives):
        kind = loss.kind if isinstance(loss, BatchLoss) else None
        of_kind.setdefault(place if kind is None else kind, []).append(place)
    parts, order = [], []
    for places in of_kind.values():
        alike = [loss for place in places if isinstance(loss := objectives[place], BatchLoss)]
        if len(places) > 1:
            shown = batches if len(batches) == 1 else [batches[place] for place in places]
            own = logits if len(places) == len(objectives) else _at(logits, 0, places)
            found = _of_one_kind(alike, own, shown, [progresses[place] for place in places])
        else:
            (only,) = places
            found = objectives[only](logits[only], each[only], progresses[only])
        parts.append(torch.stack([found.total, found.hard, found.soft]).view(3, -1))
        order += places
    back = sorted(range(len(order)), key=order.__getitem__)
    total, hard, soft = _at(torch.cat(parts, dim=1), 1, back)
    return Loss(total, hard.detach(), soft.detach())


def _at(values: Tensor, dim: int, places: Sequence[int]) -> Tensor:
    """Those at some places along a dimension; an index that is a list would wait for the device."""
    return values.index_select(dim, beside(values, places, torch.int64))


def _of_one_kind(
    losses: Sequence[BatchLoss],
    logits: Tensor,
    batches: Sequence[Batch],
    progresses: Sequence[float],
) -> Loss:
    """As `distillation_loss`, with numbers of each student's own along the first dimension."""
    hard_weights = [loss.objective.hard_weight for loss in losses]
    soft_weights = [loss.soft_weight(done) for loss, done in zip(losses, progresses, strict=True)]
    h, c = beside(logits, hard_weights), beside(logits, soft_weights)
    total = hard = soft = torch.zeros_like(h)
    if any(hard_weights):
        labels = torch.stack([batch.labels for batch in batches]).expand(len(losses), -1)
        rows = hard_loss(logits.flatten(0, 1), labels.flatten(), losses[0].smoothing)
        labelled = beside(logits, [max(batch.global_labelled, 1) for batch in batches])[:, None]
        rows = rows.view(logits.shape[:2]) / labelled
        hard = rows.sum(1) * (h != 0)
        total = total + (h[:, None] * rows).sum(1)
    if any(soft_weights):
        if any(batch.teacher_logits is None for batch in batches):
            raise ValueError("soft_weight must be 0 where there are no teacher logits")
        v = torch.stack([b.teacher_logits for b in batches if b.teacher_logits is not None])
        T = beside(logits, [loss.objective.temperature for loss in losses])[:, None, None]
        targets = soft_targets(v, T[..., None], _joint(losses, v))
        rows = soft_loss(logits, targets, T) / max(batches[0].global_rows, 1)
        soft = rows.sum(1) * (c != 0)
        total = total + (c[:, None] * rows).sum(1)
    return Loss(total, hard.detach(), soft.detach())


def _joint(losses: Sequence[BatchLoss], like: Tensor) -> Ensemble:
    """The ensemble of all students: weights `(S, 1, M, 1)` are each one's own."""
    ensemble, given = losses[0].ensemble, [loss.ensemble.weights for loss in losses]
    if ensemble.weights is None or len(set(given)) == 1:
        return ensemble
    return Ensemble(ensemble.mean, beside(like, given)[:, None, :, None])
