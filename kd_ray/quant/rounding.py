"""Rounding with a straight-through gradient, and the uniform levels that every method builds on."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Unit(torch.autograd.Function):
    """`round(n clip(scale x, 0, 1)) / n` in as few passes over memory as there can be."""

    generate_vmap_rule = True  # several students may be trained as one

    @staticmethod
    def forward(x: Tensor, n: int, scale: float, half_up: bool) -> Tensor:
        clipped = x.clamp(0, 1) if scale == 1 else F.hardtanh_(x * scale, 0, 1)
        if n > 1:
            clipped.mul_(n)
        rounded = clipped.add_(0.5).floor_() if half_up else clipped.round_()
        return rounded.div_(n) if n > 1 else rounded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.scale, _ = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradients[0], x, 0.0, 1 / ctx.scale)
        return inside if ctx.scale == 1 else inside * ctx.scale, None, None, None


def top_level(bits: int) -> int:
    """The number n = 2^k - 1 of steps between the lowest and the highest of 2^k levels."""
    return int(2**bits - 1)


def fake_quantize(x: Tensor, bits: int, *, scale: float = 1.0, half_up: bool = False) -> Tensor:
    """q_k of DoReFa-Net (1606.06160, equation 5), clipped: `round(n clip(scale x, 0, 1)) / n`.

    Args:
        x: any shape.
        bits: k >= 1; n = 2^k - 1.
        scale: factor of `x`.
        half_up: round a half upwards, else to the even neighbour.

    Returns:
        The shape of `x`, values i / n. The gradient is `scale` where `scale x` is inside (0, 1) and
        0 elsewhere.

    >>> fake_quantize(torch.tensor([-1.0, 0.4, 0.6, 2.0]), 1)
    tensor([0., 0., 1., 1.])
    """
    quantized: Tensor = _Unit.apply(x, top_level(bits), scale, half_up)
    return quantized


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value`, to the last bit, with the gradient of `x`: the straight-through estimator.

    Bengio et al. 2013 (1308.3432).

    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(x, torch.tensor([1.0])).backward()
    >>> x.grad
    tensor([1.])
    """
    # x - x is an exact zero that carries the gradient; x + (value - x) would round.
    return value.detach() + (x - x.detach())
