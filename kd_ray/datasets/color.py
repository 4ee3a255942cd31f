"""Brightness, contrast and saturation of pictures, changed by drawn factors in integers."""

import torch
from torch import Tensor

from kd_ray.datasets.counter_random import below

BRIGHTNESS, CONTRAST, SATURATION = 10, 11, 12  # draws, see `views`
FACTOR_BITS = 10
PIXEL_BITS = 8  # binary places that pixels have from one change to the next
GREY = (77, 150, 29)  # of 256: how bright red, green and blue are (ITU-R BT.601)
WHITE = 255 << PIXEL_BITS


def jittered(
    images: Tensor, most: float, seed: int, index: Tensor, view: int | Tensor, changes: Tensor
) -> Tensor:
    """Pictures with brightness, contrast and saturation times factors from 1 - most to 1 + most.

    Contrast is about the mean grey of the picture, saturation about the grey of each pixel; grey
    pictures have none.

    Args:
        images: `(N, C, H, W)` uint8, C = 1 or 3.
        most: from 0 to 1.
        seed: as for `counter_random.hashed`, as are `index` and `view`.
        index: `(N,)` int64.
        view: one, or `(N,)` int64.
        changes: `(N,)` bool; the others stay as they are.

    Returns:
        `(N, C, H, W)` uint8.
    """
    span = round(most * 2**FACTOR_BITS)

    def factor(draw: int) -> Tensor:
        moved = (below(2 * span + 1, seed, index, view, draw) - span) * changes
        whole: Tensor = ((1 << FACTOR_BITS) + moved).int()
        return whole[:, None, None, None]

    pixels = images.int() << PIXEL_BITS
    pixels = _away(torch.zeros_like(pixels[:, :1, :1, :1]), pixels, factor(BRIGHTNESS))
    count = images.shape[2] * images.shape[3]
    mean = _grey(pixels).sum(dim=(2, 3), keepdim=True, dtype=torch.int64) // count
    pixels = _away(mean.int(), pixels, factor(CONTRAST))
    if images.shape[1] == len(GREY):
        pixels = _away(_grey(pixels), pixels, factor(SATURATION))
    return pixels.add_(1 << (PIXEL_BITS - 1)).bitwise_right_shift_(PIXEL_BITS).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """`(N, C, H, W)` -> `(N, 1, H, W)`."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = (pixels[:, at : at + 1] * weight for at, weight in enumerate(GREY))
    return (red + green + blue) >> 8


def _away(centre: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """Pixels at their distance from a centre times a factor, within black and white; in place."""
    pixels.sub_(centre).mul_(factor).add_(1 << (FACTOR_BITS - 1)).bitwise_right_shift_(FACTOR_BITS)
    return pixels.add_(centre).clamp_(0, WHITE)
