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

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    gradient_bits: int

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C', H', W')`."""
        x, w = quantized_operands(self, input)
        assert self.padding_mode == "zeros"
        assert not isinstance(self.padding, str)
        output = F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return dorefa_gradients(output, self.gradient_bits)


class QuantizedLinear(nn.Linear):
    """A linear layer of quantized inputs and quantized weights."""

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    gradient_bits: int

    def forward(self, input: Tensor) -> Tensor:
        """`(N, ..., C)` to `(N, ..., C')`."""
        x, w = quantized_operands(self, input)
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
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        assert self.momentum is not None, "a moving average of the statistics"
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            megvii_affine(self.weight),
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


QuantizedLayer = QuantizedConv2d | QuantizedLinear


def quantized_operands(layer: QuantizedLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's inputs and weights as its arithmetic sees them."""
    w: Tensor = layer.weight
    if layer.input_quantizer is not None:
        x = layer.input_quantizer(x)
    if layer.weight_quantizer is not None:
        w = layer.weight_quantizer(w)
    return x, w


def become_quantized_(
    layer: nn.Module,
    weights: Quantizer | None,
    inputs: Quantizer | None,
    gradient_bits: int = FLOAT_BITS,
) -> None:
    """Turns a float `Conv2d` or `Linear` into its quantized kind, in place; tensors stay."""
    layer.__class__ = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    assert isinstance(layer, QuantizedConv2d | QuantizedLinear)
    layer.weight_quantizer, layer.input_quantizer = weights, inputs
    layer.gradient_bits = gradient_bits
