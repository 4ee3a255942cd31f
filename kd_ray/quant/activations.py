"""What a quantized model's activations do: on which levels they lie, and where all are alike."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.quant.apply import activation_quantizers
from kd_ray.quant.quantizers import Quantizer
from kd_ray.quant.trace import evaluated

DEAD = 0.999
"""A layer is dead where so large a share of its activations lie on one level."""

MOST_LEVELS = 16
"""Entries of a histogram; where there are more levels, neighbours are counted together."""


@torch.no_grad()
def activity(model: nn.Module, images: Tensor) -> dict[str, dict[str, Any]]:
    """Where the activations of each quantizer lie for normalized images `(N, C, H, W)`.

    The model, which is quantized, is in evaluation mode for it and stays as it is.

    Returns:
        Layer -> `on`, the share of activations above 0; `most`, the largest share on one level; and
        `levels`, the shares from the lowest level to the highest.
    """
    found: dict[str, dict[str, Any]] = {}

    def watch(name: str, quantizer: Quantizer, inputs: tuple[Tensor], output: Tensor) -> None:
        low, step = quantizer.grid()
        level = ((output.float() - low) / step).round().long().flatten()
        shares = torch.bincount(level, minlength=2**quantizer.bits).double() / level.numel()
        on = float((output > 0).double().mean())
        most = float(shares.max())
        if len(shares) > MOST_LEVELS:
            shares = shares.view(MOST_LEVELS, -1).sum(1)
        levels = [round(share, 6) for share in shares.tolist()]
        found[name] = {"on": round(on, 6), "most": round(most, 6), "levels": levels}

    hooks = [
        quantizer.register_forward_hook(partial(watch, name))
        for name, quantizer in activation_quantizers(model).items()
    ]
    with evaluated(model, hooks):
        model(images)
    return found


def dead_layers(layers: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the layers whose activations are nearly all the same, so that nothing is learned.

    >>> dead_layers({"conv1": {"most": 1.0}, "conv2": {"most": 0.7}})
    ['conv1']
    """
    return [name for name, layer in layers.items() if layer["most"] >= DEAD]
