"""Levels over the whole range of values, for the two ends of a model; nothing is learned.

Jacob et al. 2018 (1712.05877), section 3. At 8 bits a learned step would be smaller than one step
of an optimizer such as Adam.
"""

import torch
from torch import Tensor

from kd_ray.quant.lsq import lsq, lsq_levels
from kd_ray.quant.rounding import straight_through

SMALLEST_STEP = 1e-6
FOLLOWED = 0.01
"""The part of the way to a batch's range that the range of activations goes in each step."""


@torch.no_grad()
def range_step(v: Tensor, levels: tuple[float, float]) -> Tensor:
    """The distance of two levels with which the largest |v| is the highest one."""
    return (v.abs().amax().float() / levels[1]).clamp_min(SMALLEST_STEP)


def range_weights(w: Tensor, bits: int) -> Tensor:
    """`s round(w / s)` with s = max|w| / (2^(k-1) - 1), the gradient of the identity; k >= 2.

    >>> range_weights(torch.tensor([-0.6, 0.2, 1.0]), 2)
    tensor([-1.,  0.,  1.])
    """
    levels = lsq_levels(bits, signed=True)
    return straight_through(w, lsq(w.detach(), range_step(w, levels), levels))
