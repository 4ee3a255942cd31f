"""Layers that quantize what they are given and what they hold; float layers turn into them.

They differ from torch's by their class and by child modules alone, so the names and values of a
`state_dict` are those of the float layer, with what a method learns beside them.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.quant.dorefa import dorefa_gradients
from kd_ray.quant.megvii import megvii_affine
from kd_ray.quant.quantizers import Quantizer
from kd_ray.quant.rounding import FLOAT_BITS


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
    """Batch norm whose factor is `|a| + 1`, with a = `weight`."""

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
            megvii_affine(self.weight),
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )


def become_quantized_(
    layer: nn.Module,
    weights: Quantizer | None = None,
    inputs: Quantizer | None = None,
    gradient_bits: int = FLOAT_BITS,
) -> None:
    """Turns a float `Conv2d` or `Linear` into its quantized kind, in place; tensors stay.

    What has no quantizer stays float.
    """
    layer.__class__ = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    assert isinstance(layer, QuantizedConv2d | QuantizedLinear)
    layer.weight_quantizer = weights or nn.Identity()
    layer.input_quantizer = inputs or nn.Identity()
    layer.gradient_bits = gradient_bits
