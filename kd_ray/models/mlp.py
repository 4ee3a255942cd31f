"""The fully connected network of Hinton et al. 2015, section 3, with its two regularizers."""

from collections import OrderedDict
from itertools import pairwise
from math import prod
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from kd_ray.config.table import PartialShare, Width
from kd_ray.errors import ConfigError


class BoundedLinear(nn.Linear):
    """A linear layer whose units' incoming weight vectors keep a norm of at most `max_norm`.

    Hinton et al. 2012 (1207.0580), section "max-norm": a hard bound instead of a penalty lets
    dropout train with large learning rates. The bound is restored by `project_` after every step.
    """

    def __init__(self, inputs: int, outputs: int, max_norm: float):
        super().__init__(inputs, outputs)
        self.max_norm = max_norm

    def extra_repr(self) -> str:
        """The layer's arguments, for printing."""
        return f"{super().extra_repr()}, max_norm={self.max_norm}"

    @torch.no_grad()
    def project_(self) -> None:
        """Scales back, in place, every vector of weights beyond the bound."""
        self.weight.renorm_(p=2, dim=0, maxnorm=self.max_norm)


def bounded_layers(model: nn.Module) -> list[BoundedLinear]:
    """The layers that have a bound; most models have none."""
    return [module for module in model.modules() if isinstance(module, BoundedLinear)]


def project_(model: nn.Module) -> None:
    """Restores, in place, the bound of every layer that has one."""
    for layer in bounded_layers(model):
        layer.project_()


def mlp(
    *,
    shape: tuple[int, int, int],
    classes: int,
    hidden: list[Width],
    dropout: list[PartialShare] | None = None,
    max_norm: Annotated[float, Field(gt=0)] | None = None,
) -> nn.Sequential:
    """Linear layers with ReLU between them, on the flattened image.

    Args:
        shape: `(C, H, W)` of an image.
        classes: K.
        hidden: units of each hidden layer; none is a linear classifier.
        dropout: share of dropped units of the input and then of each hidden layer.
        max_norm: bound on each hidden unit's incoming weight vector; none for no bound.

    Returns:
        A model from `(N, C, H, W)` to logits `(N, K)`.

    Raises:
        ConfigError: a wrong number of shares.
    """
    shares = [0.0] * (len(hidden) + 1) if dropout is None else dropout
    if len(shares) != len(hidden) + 1:
        raise ConfigError(
            f"dropout must have {len(hidden) + 1} shares, one for the input and one for each "
            f"hidden layer, but got {dropout}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    widths = [prod(shape), *hidden, classes]
    for depth, ((inputs, outputs), share) in enumerate(zip(pairwise(widths), shares, strict=True)):
        if depth > 0:
            layers[f"relu{depth}"] = nn.ReLU()
        if share > 0:
            layers[f"dropout{depth}"] = nn.Dropout(share)
        # Torch's own initialization: smaller weights than He's, and without batch norm it is the
        # one that generalizes better here.
        layers[f"linear{depth + 1}"] = (
            nn.Linear(inputs, outputs)
            if max_norm is None or depth == len(hidden)
            else BoundedLinear(inputs, outputs, max_norm)
        )
    model = nn.Sequential(layers)
    project_(model)
    return model
