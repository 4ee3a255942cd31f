"""LSQ: the step between two levels is learned (Esser et al. 2019, 1902.08153)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.errors import ConfigError


class _Lsq(torch.autograd.Function):
    """Clip, round and scale as one operation, in half the passes over memory."""

    generate_vmap_rule = True  # several students may be trained as one

    @staticmethod
    def forward(v: Tensor, step: Tensor, low: float, high: float, shift: float) -> Tensor:
        level = F.hardtanh_(v / step, low, high)
        return (level.sub_(shift).round_().add_(shift) if shift else level.round_()) * step

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, step, ctx.low, ctx.high, _ = inputs
        ctx.save_for_backward(v, step, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        v, step, output = ctx.saved_tensors
        (g,) = gradients
        inside = torch.ops.aten.hardtanh_backward(g, v / step, ctx.low, ctx.high)
        # Equation 3, summed: round(v/s) - v/s inside the clip, the bound outside.
        of_step = ((g * output).sum() - (inside * v).sum()) / step
        return inside, of_step, None, None, None


def lsq_levels(bits: int, *, signed: bool, zero: bool = True) -> tuple[float, float]:
    """Lowest and highest level, in steps.

    Args:
        bits: k.
        signed: levels on both sides of 0.
        zero: whether 0 is a level; without it the levels are halves, symmetric, such as -3/2, -1/2,
            1/2, 3/2. Unsigned levels always have it.

    Raises:
        ConfigError: signed, with zero, and one bit: the levels would be -1 and 0.

    >>> lsq_levels(2, signed=False), lsq_levels(2, signed=True)
    ((0, 3), (-2, 1))
    >>> lsq_levels(1, signed=True, zero=False)
    (-0.5, 0.5)
    """
    if not signed:
        return 0, 2**bits - 1
    if not zero:
        return (1 - 2**bits) / 2, (2**bits - 1) / 2
    if bits == 1:
        raise ConfigError(
            "lsq: signed levels with a zero need at least 2 bits, but got 1 bit, whose levels "
            'would be {-1, 0}; choose signed_levels = "without-zero" ({-1, +1}) or more bits'
        )
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def lsq(v: Tensor, step: Tensor, levels: tuple[float, float]) -> Tensor:
    """`s round(clip(v / s, -Qn, Qp))`, equations 1 and 2, with the gradients of equations 3 and 5.

    The shape of `v` stays; `step` is s > 0, of no dimension, and `levels` come from `lsq_levels`.
    The gradient of `v` is 1 inside the clip and 0 outside; that of `step` is what the paper gives,
    before the scale of `scaled_gradient`.
    """
    low, high = levels
    quantized: Tensor = _Lsq.apply(v, step, float(low), float(high), low % 1)
    return quantized


def lsq_initial_step(v: Tensor, levels: tuple[float, float]) -> Tensor:
    """`2 mean|v| / sqrt(Qp)`, section 2.1; where levels are halves, Qp counts those above 0."""
    return (2 * v.detach().abs().mean() / math.sqrt(math.ceil(levels[1]))).clamp_min(1e-6)


def lsq_gradient_scale(numbers: int, levels: tuple[float, float]) -> float:
    """`1 / sqrt(N Qp)`, section 2.2: it keeps the step's updates in proportion to the weights'.

    N numbers are the layer's weights, or the features of one sample; Qp as in `lsq_initial_step`.
    """
    return 1 / math.sqrt(numbers * math.ceil(levels[1]))


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """`x`, whose gradient is multiplied by `scale`.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> scaled_gradient(x, 0.5).backward()
    >>> x.grad
    tensor(0.5000)
    """
    scaled = x * scale
    return x.detach() + (scaled - scaled.detach())
