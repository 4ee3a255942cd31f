"""Convolutional networks for small pictures: a plain one, and residual ones.

The plain one is groups of 3x3 convolutions, pooled between. The residual ones are those of He et
al. 2015 (1512.03385), section 4.2: three stages of n blocks of two 3x3 convolutions, 6n + 2 layers;
the channels double where the sides halve. Shortcuts have no parameters (option A).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd_ray.config.table import Width
from kd_ray.errors import ConfigError

Group = Annotated[Sequence[Width], Field(min_length=1)]
Groups = Annotated[Sequence[Group], Field(min_length=1, max_length=16)]


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


def resnet(
    blocks: int, /, *, shape: tuple[int, int, int], classes: int, width: Width = 16
) -> nn.Sequential:
    """A residual network of 6n + 2 layers, from images of any sides; arguments as for `convnet`.

    A stage has n residual `blocks`; `width` are the channels of the first stage.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=convolution(shape[0], width), norm=nn.BatchNorm2d(width), relu=nn.ReLU()
    )
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for place in range(blocks):
            layers[f"block{stage + 1}_{place + 1}"] = ResidualBlock(inputs, outputs)
            inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; with more outputs than inputs it halves the sides.

    Each ReLU is a module of its own, so that each can be replaced by a quantizer.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.extra = outputs - inputs
        self.stride = 2 if self.extra else 1
        self.conv1 = convolution(inputs, outputs, self.stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C', H', W')`."""
        residual = self.relu1(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        if self.extra:
            # Every second pixel, and zeros for the new channels.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        relu: Tensor = self.relu2(residual + x)
        return relu
