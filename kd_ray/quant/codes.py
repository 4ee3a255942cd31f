"""Low-bit weights and activations as the integers behind them, for machines that have no floats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_ray.quant.dorefa import dorefa_weights
from kd_ray.quant.lsq import lsq_levels
from kd_ray.quant.megvii import megvii_weights
from kd_ray.quant.quantizers import Lsq, Quantizer
from kd_ray.quant.ranges import range_step, range_weights
from kd_ray.quant.rounding import top_level


@dataclass(frozen=True)
class WeightCodes:
    """Weights as integers: each is `scale * (factor * code + shift)`.

    Attributes:
        codes: from 0 to 2^bits - 1, in the shape of the weights.
        bits: k.
        factor: 1 where 0 is a level, else 2, so that halves are integers, too.
        shift: the integer of code 0.
        scale: the distance of two integers.
    """

    codes: NDArray[np.uint8]
    bits: int
    factor: int
    shift: int
    scale: float


def _dorefa_top(w: Tensor, bits: int) -> Tensor:
    return w.abs().mean() if bits == 1 else torch.ones(())


def _megvii_top(w: Tensor, bits: int) -> Tensor:
    return torch.tanh(w).abs().mean().clamp_min(torch.finfo(w.dtype).tiny / 2)


TOPS: Mapping[Callable[[Tensor, int], Tensor], Callable[[Tensor, int], Tensor]] = {
    dorefa_weights: _dorefa_top,
    megvii_weights: _megvii_top,
}
"""Function of a method -> the highest level that it has for these weights, minus the lowest."""


@torch.no_grad()
def weight_codes(layer: nn.Module) -> WeightCodes | None:
    """The integers behind the weights of a layer, or None where they are floats."""
    quantizer = getattr(layer, "weight_quantizer", None)
    if not isinstance(quantizer, Quantizer):
        return None
    weight, bits = layer.get_parameter("weight"), quantizer.bits
    if isinstance(quantizer, Lsq):
        low, step = quantizer.levels[0], quantizer.grid()[1]
        factor = 1 if low % 1 == 0 else 2
        shift, scale = round(factor * low), step / factor
    elif quantizer.function is range_weights:
        levels = lsq_levels(bits, signed=True)
        factor, shift, scale = 1, round(levels[0]), float(range_step(weight, levels))
    else:
        assert quantizer.function is not None
        top = float(TOPS[quantizer.function](weight, bits))
        factor, shift, scale = 2, -top_level(bits), top / top_level(bits)
    integers = quantizer(weight).double() / scale if scale else torch.zeros_like(weight)
    codes = ((integers - shift) / factor).round().clamp(0, top_level(bits))
    return WeightCodes(codes.to(torch.uint8).cpu().numpy(), bits, factor, shift, scale)


@torch.no_grad()
def codes_of(quantizer: Quantizer, x: Tensor) -> NDArray[np.uint8]:
    """The numbers of the levels that a quantizer of activations takes values to, from 0 on."""
    low, step = quantizer.grid()
    codes: NDArray[np.uint8] = ((quantizer(x) - low) / step).round().to(torch.uint8).numpy()
    return codes


@torch.no_grad()
def float_thresholds(quantizer: Quantizer) -> NDArray[np.float32]:
    """The least float32 that a quantizer of activations takes to each level above the lowest.

    They are found by halving the range of all floats with the quantizer itself, so that every
    method's way to round a half is as it is.

    Returns:
        `(2^k - 1,)`, ascending.
    """
    low, step = quantizer.grid()
    wanted = torch.arange(1, top_level(quantizer.bits) + 1)
    largest = 0x7F7FFFFF  # of the bits of finite floats, which are ordered as integers are
    below = torch.full_like(wanted, -largest - 1)
    reached = torch.full_like(wanted, largest)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        level = ((quantizer(_float_at(middle)) - low) / step).round()
        reached = torch.where(level >= wanted, middle, reached)
        below = torch.where(level >= wanted, below, middle)
    found: NDArray[np.float32] = _float_at(reached).numpy()
    return found


def _float_at(place: Tensor) -> Tensor:
    """The floats at places in their order; 0 is at 0, the least positive one at 1."""
    floats = place.abs().to(torch.int32).view(torch.float32)
    return torch.where(place < 0, -floats, floats)
