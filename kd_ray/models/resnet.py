"""Residual networks for small pictures: He et al. 2015 (1512.03385), section 4.2.

Three stages of n blocks of two 3x3 convolutions, 6n + 2 layers; the channels double where the
sides halve. Shortcuts have no parameters (option A).
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.table import Count
from kd_ray.models.convnet import convolution


def resnet(
    blocks: int, /, *, shape: tuple[int, int, int], classes: int, width: Count = 16
) -> nn.Sequential:
    """A network of 6n + 2 layers.

    Args:
        blocks: n, residual blocks in a stage.
        shape: `(C, H, W)` of an image, of any sides.
        classes: K.
        width: channels of the first stage.

    Returns:
        A model from `(N, C, H, W)` to logits `(N, K)`.
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
