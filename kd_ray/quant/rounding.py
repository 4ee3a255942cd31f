"""Rounding with a straight-through gradient, and the uniform levels that every method builds on.

`bits` is a number or a tensor anywhere in this package: n = 2^k - 1 is arithmetic, so that students
of different widths can share one batch (`torch.vmap` over weights and bits).
"""

from typing import Any, Final, overload

import torch
import torch.nn.functional as F
from torch import Tensor

Bits = int | Tensor
FLOAT_BITS: Final = 32
"""Stands for float: nothing is quantized."""


class _Round(torch.autograd.Function):
    """To the nearest integer, a half to the even one; the gradient passes as it is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Unit(torch.autograd.Function):
    """`round(n clip(scale x, 0, 1)) / n` in as few passes over memory as there can be."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, n: int | Tensor, scale: float, half_up: bool) -> Tensor:
        clipped = x.clamp(0, 1) if scale == 1 else F.hardtanh_(x * scale, 0, 1)
        if isinstance(n, Tensor):  # its batch dimension under vmap may be none of x's
            return (clipped * n + 0.5).floor() / n if half_up else (clipped * n).round() / n
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


def round_ste(x: Tensor) -> Tensor:
    """Nearest integers, a half to the even one, with the gradient of the identity.

    Bengio et al. 2013 (1308.3432), the straight-through estimator.

    >>> round_ste(torch.tensor([0.5, 1.5, -0.4]))
    tensor([0., 2., -0.])
    """
    rounded: Tensor = _Round.apply(x)
    return rounded


@overload
def top_level(bits: int) -> int: ...


@overload
def top_level(bits: Tensor) -> Tensor: ...


def top_level(bits: Bits) -> Bits:
    """The number n = 2^k - 1 of steps between the lowest and the highest of 2^k levels.

    >>> [top_level(bits) for bits in (1, 2, 8)]
    [1, 3, 255]
    """
    if isinstance(bits, Tensor):
        return torch.exp2(bits.float()) - 1
    return int(2**bits - 1)


def fake_quantize(x: Tensor, bits: Bits, *, scale: float = 1.0, half_up: bool = False) -> Tensor:
    """q_k of DoReFa-Net (1606.06160, equation 5), clipped: `round(n clip(scale x, 0, 1)) / n`.

    Args:
        x: any shape.
        bits: k >= 1; n = 2^k - 1.
        scale: of `x`.
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
    """`value`, to the last bit, with the gradient of `x`.

    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(x, torch.tensor([1.0])).backward()
    >>> x.grad
    tensor([1.])
    """
    # x - x is an exact zero that carries the gradient; x + (value - x) would round.
    return value.detach() + (x - x.detach())
