"""The objective as pure functions on tensors: hard loss, soft targets, soft loss, their sum.

With student logits z, teacher logits v and q_T = softmax(z / T):

    loss = h * CE(softmax(z), y) + c * CE(q_T, soft targets)

Hinton, Vinyals and Dean 2015, section 2. Nothing here knows of devices, optimizers, workers or
epochs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import pick


def hard_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels at T = 1, in nats; 0 for an unlabelled row.

    Args:
        logits: student logits z, `(N, K)`.
        labels: `(N,)` int64; `UNLABELLED` where the label is hidden.
        smoothing: share of the label's mass that is spread evenly over all K classes.

    Returns:
        `(N,)`.
    """
    return F.cross_entropy(
        exact(logits), labels, ignore_index=UNLABELLED, reduction="none", label_smoothing=smoothing
    )


@dataclass(frozen=True)
class Ensemble:
    """How several teachers' distributions become one.

    Attributes:
        mean: a key of `MEANS`.
        weights: one for each of the M teachers, adding up to 1; None for equal ones. Those of
            several students are a tensor `(S, 1, M, 1)`.
    """

    mean: str = "arithmetic"
    weights: "Weights" = None


Weights = tuple[float, ...] | Tensor | None
MEAN_OF_ALL = Ensemble()


def soft_targets(
    teacher_logits: Tensor, temperature: float | Tensor, ensemble: Ensemble = MEAN_OF_ALL
) -> Tensor:
    """The teachers' joint distribution at temperature T (Hinton et al. 2015, equation 1).

    Args:
        teacher_logits: raw logits v, `(..., M, K)`.
        temperature: T; of several students `(S, 1, 1, 1)`, for logits `(S or 1, N, M, K)`.
        ensemble: the mean and its weights.

    Returns:
        `(..., K)`; rows add up to 1.
    """
    mean = pick("ensemble", MEANS, ensemble.mean)
    return mean(exact(teacher_logits), temperature, ensemble.weights)


def _arithmetic(logits: Tensor, temperature: float | Tensor, weights: Weights) -> Tensor:
    return _mean((logits / temperature).softmax(dim=-1), weights).squeeze(-2)


def _geometric(logits: Tensor, temperature: float | Tensor, weights: Weights) -> Tensor:
    # The normalized geometric mean of softmaxes is the softmax of the mean logit.
    return (_mean(logits, weights) / temperature).softmax(dim=-1).squeeze(-2)


def _mean(values: Tensor, weights: Weights) -> Tensor:
    """`(..., M, K)` -> `(..., 1, K)`."""
    if weights is None:
        return values.mean(dim=-2, keepdim=True)
    if isinstance(weights, Tensor):
        return (values * weights).sum(dim=-2, keepdim=True)
    return torch.einsum("...mk,m->...k", values, beside(values, weights)).unsqueeze(-2)


def beside(like: Tensor, numbers: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Numbers on the device of another tensor, of its type or another; no step waits for them."""
    return torch.tensor(numbers, dtype=dtype or like.dtype).to(like.device, non_blocking=True)


MEANS: Mapping[str, Callable[[Tensor, float | Tensor, Weights], Tensor]] = {
    "arithmetic": _arithmetic,
    "geometric": _geometric,
}


def soft_loss(logits: Tensor, targets: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross-entropy of the student at temperature T with soft targets, in nats.

    Its gradient in the logits is (q_T - targets) / T: the same as that of KL(targets || q_T), from
    which it differs by the entropy of the targets.

    Args:
        logits: student logits z, `(..., K)`.
        targets: a distribution in each row, `(..., K)`.
        temperature: T; of several students `(S, 1, 1)`, for logits `(S, N, K)`.

    Returns:
        `(...)`.
    """
    return -(targets * (exact(logits) / temperature).log_softmax(dim=-1)).sum(dim=-1)


SoftTerm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student logits `(N, K)`, all teachers' logits `(N, M, K)`, labels `(N,)`) -> losses `(N,)`."""


@dataclass(frozen=True)
class Loss:
    """One worker's part of a global batch's loss; the parts of all workers add up to the whole.

    Attributes:
        total: `()`, h * hard + c * soft; the one to take gradients of.
        hard: `()`, the hard term before its weight; 0 where it is skipped.
        soft: `()`, the soft term before its weight; 0 where it is skipped.
    """

    total: Tensor
    hard: Tensor
    soft: Tensor


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    *,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    targets: Literal["teacher", "labels"] = "teacher",
    ensemble: Ensemble = MEAN_OF_ALL,
    soft_term: SoftTerm | None = None,
    smoothing: float = 0.0,
    global_rows: int,
    global_labelled: int,
) -> Loss:
    """The objective of a global batch, restricted to this worker's rows.

    Each term is a mean over the rows of the *global* batch that take part in it, so workers with
    unequal numbers of labelled rows still add up to what one worker would have computed.

    Args:
        logits: student logits z, `(N, K)`; computed on in float32 even where they are lower.
        labels: `(N,)` int64; an `UNLABELLED` row takes part in the teacher's soft term only.
        teacher_logits: raw logits v, `(N, M, K)`; None where no soft term needs them.
        temperature: T of both softmaxes in the soft term.
        soft_weight: c, multiplies the soft term literally; 0 skips the term.
        hard_weight: h, likewise.
        targets: the teacher's soft targets, or one-hot labels (a control without a teacher).
        ensemble: how the teachers are averaged.
        soft_term: another soft term with a teacher than the cross-entropy at T; it knows its own T
            and ensemble.
        smoothing: label smoothing of the hard term.
        global_rows: rows of the batch over all workers.
        global_labelled: labelled rows of the batch over all workers.

    Raises:
        ValueError: a soft term with the teacher's targets, but no teacher logits.
    """
    # A skipped term is a sum over no rows: zero, yet backward() works where both are skipped.
    nothing = exact(logits)[:0].sum()
    total, hard, soft = nothing, nothing, nothing
    if hard_weight != 0:
        rows = hard_loss(logits, labels, smoothing) / max(global_labelled, 1)
        hard = rows.sum()
        total = total + (hard_weight * rows).sum()
    if soft_weight != 0:
        if targets == "labels":
            rows = hard_loss(exact(logits) / temperature, labels) / max(global_labelled, 1)
        elif teacher_logits is None:
            raise ValueError("soft_weight must be 0 where there are no teacher logits")
        elif soft_term is not None:
            rows = soft_term(exact(logits), exact(teacher_logits), labels) / max(global_rows, 1)
        else:
            distribution = soft_targets(teacher_logits, temperature, ensemble)
            rows = soft_loss(logits, distribution, temperature) / max(global_rows, 1)
        soft = rows.sum()
        total = total + (soft_weight * rows).sum()
    return Loss(total, hard.detach(), soft.detach())


def exact(logits: Tensor) -> Tensor:
    """At least float32: bf16 has 8 bits for a sum that must be right to far more."""
    return logits if logits.dtype == torch.float64 else logits.float()
