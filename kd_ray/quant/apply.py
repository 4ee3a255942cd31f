"""Quantizers put on a model by the recipe.

A layer's bits are those of its weights and of its inputs. Inputs are quantized where they enter a
layer, so a shortcut around it stays float; the exercise's block quantizes what leaves its ReLU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from kd_ray.catalog import suggestion
from kd_ray.config import QuantizerOptions
from kd_ray.config.quantizer import FLOAT_BITS
from kd_ray.errors import ConfigError
from kd_ray.quant.dorefa import dorefa_activations, dorefa_weights
from kd_ray.quant.lsq import lsq_levels
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.quantizers import (
    Lsq,
    MegviiNorm,
    PactActivations,
    QuantizedReLU,
    Quantizer,
    RangeActivations,
    become_quantized_,
)
from kd_ray.quant.ranges import range_weights
from kd_ray.quant.trace import LayerCalls, evaluated, trace_layers

LAYERS = (nn.Conv2d, nn.Linear)
WEIGHTS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "dorefa": dorefa_weights,
    "megvii": megvii_weights,
    "pact": dorefa_weights,
}


@dataclass(frozen=True)
class LayerBits:
    """Bits of one layer's weights, inputs and output gradients; 32 is float."""

    weight: int
    activation: int
    gradient: int


FLOAT = LayerBits(FLOAT_BITS, FLOAT_BITS, FLOAT_BITS)


def quantize_(
    model: nn.Module, options: QuantizerOptions, shape: tuple[int, int, int]
) -> nn.Module:
    """Puts quantizers on a float model, fresh or trained, in place, and returns it.

    Images have the `shape` (C, H, W).

    Raises:
        ConfigError: a layer cannot take the method, or an override names no layer.
    """
    calls = trace_layers(model, shape, LAYERS)
    bits = layer_bits(calls, options)
    for call in calls:
        end = options.first_last_bits is not None and call in (calls[0], calls[-1])
        _check_layer(model.get_submodule(call.name), call, bits[call.name], options, end)
    blocks = options.method == "megvii"  # whose ReLUs are quantized, too
    wanted = options.weight_bits if blocks else min(options.weight_bits, options.activation_bits)
    if wanted < FLOAT_BITS and all(mine == FLOAT for mine in bits.values()):
        raise ConfigError(
            "quantizer: must have a layer to quantize, but the model has none beside its first and "
            "last, which stay float; set first_last_float = false, or choose a deeper model"
        )
    if blocks:
        _quantize_blocks_(model, options, shape)
    for call in calls:
        mine = bits[call.name]
        if mine == FLOAT:
            continue
        layer = model.get_submodule(call.name)
        if options.first_last_bits and call in (calls[0], calls[-1]):
            weights, inputs = _of_end(mine, call)
        else:
            weights, inputs = _weights(options, mine), _inputs(options, mine, call)
        become_quantized_(layer, weights, inputs, mine.gradient)
        if weights is not None:
            weights.calibrate_(layer.get_parameter("weight"))
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether any layer has a quantizer."""
    return any(isinstance(module, Quantizer) for module in model.modules())


def layer_bits(calls: list[LayerCalls], options: QuantizerOptions) -> dict[str, LayerBits]:
    """The bits of every layer, by name.

    The first layer's inputs are pixels and stay as they are, unless `first_last_bits` has others.

    Raises:
        ConfigError: an override names no layer.
    """
    names = [call.name for call in calls]
    for pattern in options.layers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"quantizer.layers: must name layers of the model, but got '{pattern}'; "
                f"{suggestion(pattern, names)}"
            )
    first_float, last_float = options.float_ends
    end = options.first_last_bits
    # The exercise's block has its quantizers at the ReLUs.
    inputs = FLOAT_BITS if options.method == "megvii" else options.activation_bits
    found: dict[str, LayerBits] = {}
    for place, name in enumerate(names):
        first, last = place == 0, place == len(names) - 1
        bits = LayerBits(options.weight_bits, inputs, options.gradient_bits)
        if (first and first_float) or (last and last_float):
            bits = FLOAT
        elif end and (first or last):
            bits = LayerBits(end, end, FLOAT_BITS)
        for pattern, mine in options.layers.items():
            if fnmatchcase(name, pattern):
                if first and pattern == name and mine.activation_bits not in (None, FLOAT_BITS):
                    raise ConfigError(
                        f"quantizer.layers.'{name}'.activation_bits: the first layer's inputs are "
                        "pixels, which first_last_bits alone quantizes, but got "
                        f"{mine.activation_bits}; leave it out"
                    )
                weight, activation = mine.weight_bits, mine.activation_bits
                weight, activation = weight or bits.weight, activation or bits.activation
                bits = replace(bits, weight=weight, activation=activation)
        found[name] = replace(bits, activation=end or FLOAT_BITS) if first else bits
    return found


@torch.no_grad()
def calibrate_(model: nn.Module, images: Tensor) -> None:
    """Lets quantizers of activations choose where to start, each behind those before it.

    They see normalized images `(N, C, H, W)` on the model's device. The batch's own statistics
    stand for batch norm's, which are still empty; they are put back.
    """
    hooks = [
        quantizer.register_forward_pre_hook(lambda module, inputs: module.calibrate_(inputs[0]))
        for quantizer in activation_quantizers(model).values()
    ]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with evaluated(model, hooks):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.train()
        try:
            model(images)
        finally:
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def activation_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Quantizers of activations, by the name of the layer that they stand before or behind."""
    return {
        name.rpartition(".")[0]: module
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and not name.endswith("weight_quantizer")
    }


def _check_layer(
    layer: nn.Module, call: LayerCalls, bits: LayerBits, options: QuantizerOptions, end: bool
) -> None:
    where = f"layer '{call.name}'"
    is_float = bits.weight == bits.activation == FLOAT_BITS
    if not is_float and type(layer) not in LAYERS:
        raise ConfigError(
            f"{where}: quantizers go on plain Conv2d and Linear layers, but it is a "
            f"{type(layer).__name__}; choose another model, leave max_norm out, or give it 32 "
            "bits under quantizer.layers"
        )
    if end and 1 in (bits.weight, bits.activation):
        raise ConfigError(
            f"{where}: with first_last_bits an end has levels on both sides of 0, at least 2 bits, "
            "but got 1 under quantizer.layers; give it more, or leave first_last_bits out"
        )
    if end or bits.activation == FLOAT_BITS or not call.negative:
        return
    if options.method == "lsq":
        lsq_levels(bits.activation, signed=True, zero=options.has_signed_zero(bits.activation))
    else:
        raise ConfigError(
            f"{where}: {options.method} quantizes inputs that are not negative, but this layer's "
            'can be; choose method = "lsq", or activation_bits = 32 under quantizer.layers'
        )


def _weights(options: QuantizerOptions, bits: LayerBits) -> Quantizer | None:
    if bits.weight == FLOAT_BITS:
        return None
    if options.method == "lsq":
        zero = options.has_signed_zero(bits.weight)
        return Lsq(bits.weight, signed=True, zero=zero, per_row=False)
    return Quantizer(bits.weight, WEIGHTS[options.method])


def _inputs(options: QuantizerOptions, bits: LayerBits, call: LayerCalls) -> Quantizer | None:
    if bits.activation == FLOAT_BITS:
        return None
    if options.method == "lsq":
        zero = not call.negative or options.has_signed_zero(bits.activation)
        return Lsq(bits.activation, signed=call.negative, zero=zero, per_row=True)
    if options.method == "pact":
        return PactActivations(bits.activation)
    return Quantizer(bits.activation, dorefa_activations)


def _of_end(bits: LayerBits, call: LayerCalls) -> tuple[Quantizer | None, Quantizer | None]:
    """Quantizers of weights and inputs of the first or the last layer, whatever the method."""
    weights = Quantizer(bits.weight, range_weights) if bits.weight < FLOAT_BITS else None
    inputs = RangeActivations(bits.activation, signed=call.negative)
    return weights, inputs if bits.activation < FLOAT_BITS else None


def _quantize_blocks_(
    model: nn.Module, options: QuantizerOptions, shape: tuple[int, int, int]
) -> None:
    """The exercise's block: batch norm's factor becomes |a| + 1, and each ReLU quantizes."""
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    relus = trace_layers(model, shape, (nn.ReLU,))
    if not norms or not relus:
        raise ConfigError(
            "quantizer.method: megvii quantizes blocks of convolution, batch norm and ReLU, but "
            "the model has none; choose dorefa, lsq or pact"
        )
    shared = [relu.name for relu in relus if relu.calls > 1]
    if shared:
        raise ConfigError(
            f"layer '{shared[0]}': megvii needs a ReLU of its own in each block, but this one is "
            "called several times; choose dorefa, lsq or pact"
        )
    for norm in norms:
        norm.__class__ = MegviiNorm
    if options.activation_bits == FLOAT_BITS:
        return
    for relu in relus:
        layer = model.get_submodule(relu.name)
        layer.__class__ = QuantizedReLU
        assert isinstance(layer, QuantizedReLU)
        layer.output_quantizer = Quantizer(options.activation_bits, megvii_activations)
