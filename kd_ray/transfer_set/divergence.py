"""What coding costs: how far soft targets of rebuilt logits lie from the teacher's own."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kd_ray.config.table import Table

TEMPERATURES = (1.0, 4.0, 20.0)
"""Where the cost of rebuilt logits is measured."""


class Divergence(Table):
    """How far soft targets of rebuilt logits lie from the teacher's, in nats."""

    temperature: float
    """T of both softmaxes."""

    mean: float
    """Mean KL(teacher's || rebuilt) over all rows and teachers."""

    largest: float
    """Largest of one row and teacher."""


def divergence(true: Tensor, rebuilt: Tensor) -> Tensor:
    """KL(true || rebuilt) of soft targets at each of `TEMPERATURES`, in nats.

    Args:
        true: logits `(..., K)`.
        rebuilt: logits `(..., K)`.

    Returns:
        `(..., 3)` float64.
    """
    found = []
    for temperature in TEMPERATURES:
        p, q = ((logits / temperature).log_softmax(dim=-1) for logits in (true, rebuilt))
        # The sum of q - p is 0: with it every class adds what is not negative, so nothing cancels.
        found.append((p.exp() * (p - q) + q.exp() - p.exp()).sum(dim=-1, dtype=torch.float64))
    return torch.stack(found, dim=-1).clamp(min=0)


def summed_up(costs: Iterable[tuple[int, Sequence[Divergence]]]) -> tuple[Divergence, ...]:
    """The divergences of several files of so many rows as those of one."""
    parts = [(rows, of_one) for rows, of_one in costs]
    total = sum(rows for rows, _ in parts)
    return tuple(
        Divergence(
            temperature=temperature,
            mean=sum(rows * of_one[at].mean for rows, of_one in parts) / total,
            largest=max(of_one[at].largest for _, of_one in parts),
        )
        for at, temperature in enumerate(TEMPERATURES)
    )
