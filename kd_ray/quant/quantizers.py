"""Quantizers as modules: a method's function with its bits, and what it learns.

Those of activations know where their levels lie, so that what passes through them can be counted.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_ray.quant.lsq import (
    lsq,
    lsq_gradient_scale,
    lsq_initial_step,
    lsq_levels,
    scaled_gradient,
)
from kd_ray.quant.pact import CLIP_DECAY, INITIAL_CLIP, pact
from kd_ray.quant.rounding import top_level

SMALLEST_STEP = 1e-6


class Quantizer(nn.Module):
    """A module that takes floats to as many levels as `bits` allow; the shape stays.

    Args:
        bits: k.
        function: of a tensor and k; None for a subclass that learns, and so has its own `forward`.
    """

    def __init__(self, bits: int, function: Callable[[Tensor, int], Tensor] | None = None):
        super().__init__()
        self.bits, self.function = bits, function

    def forward(self, x: Tensor) -> Tensor:
        """Weights, or a layer's inputs, quantized."""
        assert self.function is not None
        return self.function(x, self.bits)

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        return 0.0, 1 / top_level(self.bits)

    def calibrate_(self, x: Tensor) -> None:
        """Chooses the start of what is learned, from an example of what will come."""

    def extra_repr(self) -> str:
        """The bits, for printing."""
        return f"bits={self.bits}"


class PactActivations(Quantizer):
    """`pact`, with its clip, which has a weight decay of its own."""

    def __init__(self, bits: int):
        super().__init__(bits)
        self.clip = nn.Parameter(torch.tensor(INITIAL_CLIP))
        self.clip.weight_decay = CLIP_DECAY  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """A layer's inputs, quantized."""
        return pact(x, self._positive_clip(), self.bits)

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        return 0.0, float(self._positive_clip().detach()) / top_level(self.bits)

    def _positive_clip(self) -> Tensor:
        return self.clip.abs().clamp_min(SMALLEST_STEP)


class Lsq(Quantizer):
    """`lsq` of weights or activations, with its step.

    Args:
        bits: k.
        signed: see `lsq_levels`.
        zero: see `lsq_levels`.
        per_row: whether the first dimension counts samples, so that N is the features of one.
    """

    def __init__(self, bits: int, *, signed: bool, zero: bool, per_row: bool):
        super().__init__(bits)
        self.levels, self.per_row = lsq_levels(bits, signed=signed, zero=zero), per_row
        self.step = nn.Parameter(torch.tensor(1.0))

    def forward(self, v: Tensor) -> Tensor:
        """Weights, or a layer's inputs, quantized."""
        scale = lsq_gradient_scale(v[0].numel() if self.per_row else v.numel(), self.levels)
        return lsq(v, scaled_gradient(self._positive_step(), scale), self.levels)

    @torch.no_grad()
    def calibrate_(self, x: Tensor) -> None:
        """Sets the step to the paper's start for these values."""
        self.step.copy_(lsq_initial_step(x, self.levels))

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        step = float(self._positive_step().detach())
        return self.levels[0] * step, step

    def _positive_step(self) -> Tensor:
        return self.step.abs().clamp_min(SMALLEST_STEP)

    def extra_repr(self) -> str:
        """The bits and the levels, for printing."""
        return f"{super().extra_repr()}, levels={self.levels}"
