"""A plain convolutional network for small pictures: groups of 3x3 convolutions, pooled between."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from kd_ray.config.table import Count
from kd_ray.errors import ConfigError

Group = Annotated[Sequence[Count], Field(min_length=1)]
Groups = Annotated[Sequence[Group], Field(min_length=1)]


def convnet(
    *,
    shape: tuple[int, int, int],
    classes: int,
    groups: Groups = ((16,), (32, 32), (64, 64), (128, 128)),
) -> nn.Sequential:
    """3x3 convolutions with batch norm and ReLU, 2x2 max-pooling after each group but the last.

    Then global average pooling and one linear layer. Pooling comes before the ReLU: the order makes
    no difference to the result, does less work, and leaves the ReLU last in each block, where a
    quantizer of activations belongs.

    Args:
        shape: `(C, H, W)` of an image.
        classes: K.
        groups: channels of the convolutions of each group.

    Returns:
        A model from `(N, C, H, W)` to logits `(N, K)`.

    Raises:
        ConfigError: an image that is pooled away.
    """
    least = 2 ** (len(groups) - 1)
    if min(shape[1:]) < least:
        raise ConfigError(
            f"{len(groups)} groups need images of at least {least} x {least} pixels, "
            f"but got {shape[1]} x {shape[2]}; give groups fewer lists"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = shape[0]
    for depth, group in enumerate(groups, start=1):
        for place, width in enumerate(group, start=1):
            ends = place == len(group) and depth < len(groups)
            layers[f"block{depth}_{place}"] = _block(inputs, width, pooled=ends)
            inputs = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


def _block(inputs: int, outputs: int, pooled: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=convolution(inputs, outputs), norm=nn.BatchNorm2d(outputs)
    )
    if pooled:
        layers["pool"] = nn.MaxPool2d(2)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with He's initialization, for batch norm to follow."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
