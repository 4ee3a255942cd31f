"""What a model costs: the bytes that it is stored in, and the bit operations for one image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_ray.config.quantizer import FLOAT_BITS
from kd_ray.quant.apply import LAYERS
from kd_ray.quant.quantizers import QuantizedConv2d, QuantizedLinear, QuantizedReLU, Quantizer
from kd_ray.quant.trace import LayerCalls, evaluated, trace_layers

PIXEL_BITS = 8
"""Bits of the inputs of the first layer."""


@dataclass(frozen=True)
class LayerCost:
    """One layer as it would be stored and computed.

    Attributes:
        name: dotted, in the model.
        kind: class of the layer, such as "Conv2d".
        weight_bits: of its weights.
        activation_bits: of its inputs; pixels have 8.
        packed_bytes: weights at their bits, and a 4-byte scale where they are quantized; bias in
            float32.
        bit_operations: multiplications for one image, times both bits.
    """

    name: str
    kind: str
    weight_bits: int
    activation_bits: int
    packed_bytes: int
    bit_operations: int


@dataclass(frozen=True)
class ModelCost:
    """A whole model: its convolutions and linear layers in the order of their calls, and sums.

    All other parameters and running statistics are counted among the bytes, in float32.
    """

    layers: list[LayerCost]
    packed_bytes: int
    bit_operations: int


def model_cost(model: nn.Module, shape: tuple[int, int, int]) -> ModelCost:
    """Bytes and bit operations of a model, float or quantized, for images of `shape` (C, H, W)."""
    blocks = [module for module in model.modules() if isinstance(module, QuantizedReLU)]
    draw = torch.Generator().manual_seed(0)

    def coin(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Lets 0 and 1 through at random, so that it shows where those are averaged."""
        return torch.randint(2, output.shape, generator=draw).to(output)

    with evaluated(model, [block.register_forward_hook(coin) for block in blocks]):
        calls = trace_layers(model, shape, LAYERS)
    behind = max((relu.output_quantizer.bits for relu in blocks), default=FLOAT_BITS)
    layers = []
    counted: set[int] = set()
    for place, call in enumerate(calls):
        layer = model.get_submodule(call.name)
        inputs = PIXEL_BITS if place == 0 else _activation_bits(layer, call, behind)
        layers.append(_layer_cost(layer, call, inputs))
        counted |= {id(layer.weight), id(layer.bias)}
        if isinstance(layer, QuantizedConv2d | QuantizedLinear):
            counted |= {id(learned) for learned in layer.weight_quantizer.parameters()}
    rest = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    others = sum(4 * tensor.numel() for tensor in rest if id(tensor) not in counted)
    return ModelCost(
        layers=layers,
        packed_bytes=others + sum(layer.packed_bytes for layer in layers),
        bit_operations=sum(layer.bit_operations for layer in layers),
    )


def _activation_bits(layer: nn.Module, call: LayerCalls, behind: int) -> int:
    quantizer = getattr(layer, "input_quantizer", None)
    if isinstance(quantizer, Quantizer):
        return quantizer.bits
    # What quantizing ReLUs let through has few values until it is averaged.
    return behind if behind < FLOAT_BITS and call.distinct <= 2 else FLOAT_BITS


def _layer_cost(layer: nn.Module, call: LayerCalls, activation_bits: int) -> LayerCost:
    quantizer = getattr(layer, "weight_quantizer", None)
    bits = quantizer.bits if isinstance(quantizer, Quantizer) else FLOAT_BITS
    weight, bias = layer.get_parameter("weight"), layer.bias
    packed = -(-weight.numel() * bits // 8) + (4 if bits < FLOAT_BITS else 0)
    return LayerCost(
        name=call.name,
        kind=type(layer).__name__.removeprefix("Quantized"),
        weight_bits=bits,
        activation_bits=activation_bits,
        packed_bytes=packed + (4 * bias.numel() if isinstance(bias, Tensor) else 0),
        bit_operations=call.multiplications * bits * activation_bits,
    )
