"""Quantizers as modules, and the layers that have them; float layers turn into these.

A quantizer is a method's function with its bits, and what it learns; one of activations knows where
its levels lie, so that what passes through can be counted. Layers differ from torch's by their
class and by child modules alone, so the names and values of a `state_dict` are those of the float
layer, with what a method learns beside them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.quant.dorefa import dorefa_gradients
from kd_ray.quant.lsq import lsq, lsq_gradient_scale, lsq_initial_step, lsq_levels, scaled_gradient
from kd_ray.quant.pact import CLIP_DECAY, INITIAL_CLIP, pact
from kd_ray.quant.ranges import FOLLOWED, SMALLEST_STEP, range_step
from kd_ray.quant.rounding import top_level


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
        return pact(x, _positive(self.clip), self.bits)

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        return 0.0, float(_positive(self.clip).detach()) / top_level(self.bits)


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
        return lsq(v, scaled_gradient(_positive(self.step), scale), self.levels)

    @torch.no_grad()
    def calibrate_(self, x: Tensor) -> None:
        """Sets the step to the paper's start for these values."""
        self.step.copy_(lsq_initial_step(x, self.levels))

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        step = float(_positive(self.step).detach())
        return self.levels[0] * step, step

    def extra_repr(self) -> str:
        """The bits and the levels, for printing."""
        return f"{super().extra_repr()}, levels={self.levels}"


class RangeActivations(Quantizer):
    """Activations on levels over the range that those of training had; see `ranges`.

    Args:
        bits: k.
        signed: levels on both sides of 0, as pixels need them, else from 0 on.
    """

    step: Tensor

    def __init__(self, bits: int, *, signed: bool):
        super().__init__(bits)
        self.levels = lsq_levels(bits, signed=signed)
        self.register_buffer("step", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """A layer's inputs, quantized; in training their range is followed."""
        if self.training:
            self.step.add_(FOLLOWED * (range_step(x, self.levels) - self.step))
        return lsq(x, self.step.clone(), self.levels)

    def calibrate_(self, x: Tensor) -> None:
        """Sets the range to that of these values."""
        self.step.copy_(range_step(x, self.levels))

    def grid(self) -> tuple[float, float]:
        """The lowest level, and the distance of two levels."""
        step = float(self.step)
        return self.levels[0] * step, step


def _positive(learned: Tensor) -> Tensor:
    return learned.abs().clamp_min(SMALLEST_STEP)


class QuantizedConv2d(nn.Conv2d):
    """A convolution of quantized inputs with quantized weights."""

    weight_quantizer: nn.Module
    input_quantizer: nn.Module
    gradient_bits: int

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C', H', W')`."""
        x, w = self.input_quantizer(input), self.weight_quantizer(self.weight)
        return dorefa_gradients(self._conv_forward(x, w, self.bias), self.gradient_bits)


class QuantizedLinear(nn.Linear):
    """A linear layer of quantized inputs and quantized weights."""

    weight_quantizer: nn.Module
    input_quantizer: nn.Module
    gradient_bits: int

    def forward(self, input: Tensor) -> Tensor:
        """`(N, ..., C)` to `(N, ..., C')`."""
        x, w = self.input_quantizer(input), self.weight_quantizer(self.weight)
        return dorefa_gradients(F.linear(x, w, self.bias), self.gradient_bits)


class QuantizedReLU(nn.ReLU):
    """A ReLU whose output is quantized; the clip at 0 is the quantizer's."""

    output_quantizer: Quantizer

    def forward(self, input: Tensor) -> Tensor:
        """The shape stays."""
        quantized: Tensor = self.output_quantizer(input)
        return quantized


class MegviiNorm(nn.BatchNorm2d):
    """Batch norm whose factor is `|a| + 1`, with a = `weight`: it cannot vanish or change sign."""

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        momentum = self.momentum or 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if self.momentum is None:  # a plain average over all batches
                momentum = 1 / float(self.num_batches_tracked)
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight.abs() + 1,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )


def become_quantized_(
    layer: nn.Module, weights: Quantizer | None, inputs: Quantizer | None, gradient_bits: int
) -> None:
    """Turns a float `Conv2d` or `Linear` into its quantized kind, in place; tensors stay.

    What has no quantizer stays float.
    """
    layer.__class__ = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    assert isinstance(layer, QuantizedConv2d | QuantizedLinear)
    layer.weight_quantizer = weights or nn.Identity()
    layer.input_quantizer = inputs or nn.Identity()
    layer.gradient_bits = gradient_bits
