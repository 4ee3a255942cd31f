"""The quantizers of the course exercise this project grew from: halves are rounded upwards."""

import torch
from torch import Tensor

from kd_ray.quant.rounding import fake_quantize, straight_through

INPUT_SCALE = 0.1
"""Activations are a tenth before they are clipped to [0, 1]."""


def megvii_weights(w: Tensor, bits: int) -> Tensor:
    """`s (q_k(clip(t / s, -1/2, 1/2) + 1/2) - 1/2)` with t = tanh(w) and s = 2 mean|t|.

    The gradient of the whole map is that of the identity. Unlike DoReFa's it keeps the layer's
    scale and follows the mean of the weights rather than their largest. The shape of `w` stays.
    """
    t = torch.tanh(w.detach())
    s = (2 * t.abs().mean()).clamp_min(torch.finfo(w.dtype).tiny)
    low = s * (fake_quantize(t / s + 0.5, bits, half_up=True) - 0.5)
    return straight_through(w, low)


def megvii_activations(x: Tensor, bits: int) -> Tensor:
    """`q_k(clip(0.1 x, 0, 1))`; a unit is on from x = 10 / (2n), so few are at the start.

    The shape of `x` stays; its gradient is 0.1 inside (0, 10) and 0 elsewhere.
    """
    return fake_quantize(x, bits, scale=INPUT_SCALE, half_up=True)
