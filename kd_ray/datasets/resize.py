"""A part of each picture at the picture's size, in integers: bilinear, always inside.

The part's area is drawn as a share of the picture's, its width such that the picture is distorted
by 4 : 3 at most and the part fits; square roots and quotients of float64 are the same on every
machine, and everything after them is integers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_ray.datasets.counter_random import below, uniform

MOST_DISTORTED = 4 / 3
SIZE_BITS = 20  # binary places of a side's share, and of a pixel's place times the share
PLACE_BITS = 11  # binary places of a source pixel's place: 255 * 2^22 still fits 32 bits

AREA, WIDTH, ROW, COLUMN = 6, 7, 8, 9  # draws, see `views`


def resized_crop(
    images: Tensor,
    shares: Sequence[float],
    seed: int,
    index: Tensor,
    view: int | Tensor,
    changes: Tensor,
) -> Tensor:
    """Parts of pictures, enlarged to the whole.

    Args:
        images: `(N, C, H, W)` uint8.
        shares: least and largest area of a part, of the picture's.
        seed: as for `counter_random.hashed`, as are `index` and `view`.
        index: `(N,)` int64.
        view: one, or `(N,)` int64.
        changes: `(N,)` bool; the others stay as they are.

    Returns:
        `(N, C, H, W)` uint8.
    """
    least, largest = shares
    area = least + (largest - least) * uniform(seed, index, view, AREA).double()
    area = torch.where(changes, area, 1.0)
    narrowest = torch.maximum(area, (area / MOST_DISTORTED).sqrt())
    widest = (area * MOST_DISTORTED).sqrt().clamp(max=1)
    width = narrowest + (widest - narrowest) * uniform(seed, index, view, WIDTH).double()
    found = []
    height, sides = area / width, images.shape[2:]
    for share, side, draw in zip((height, width), sides, (ROW, COLUMN), strict=True):
        size = (share * 2**SIZE_BITS).round().long().clamp(max=1 << SIZE_BITS)
        begin = below(side * ((1 << SIZE_BITS) - size) + 1, seed, index, view, draw)
        found.append(places(begin, size, side))
    return resampled(images, *found)


def places(begin: Tensor, size: Tensor, side: int) -> Tensor:
    """Where along one axis the centre of each pixel lies, `(N, side)` with `PLACE_BITS`.

    Args:
        begin: `(N,)` int64, of the part, in pixels with `SIZE_BITS`.
        size: `(N,)` int64, of the part, as a share with `SIZE_BITS`.
        side: pixels along the axis.
    """
    doubled = 2 * torch.arange(side, device=begin.device) + 1  # twice the centre
    place = 2 * begin[:, None] + doubled * size[:, None] - (1 << SIZE_BITS)
    spare = SIZE_BITS + 1 - PLACE_BITS
    return ((place + (1 << (spare - 1))) >> spare).clamp(0, (side - 1) << PLACE_BITS)


def resampled(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Bilinear pixels at places along both axes, rounded to the nearest integer.

    Args:
        images: `(N, C, H, W)` uint8.
        row: `(N, h)` int64 with `PLACE_BITS`, from 0 to the last row.
        column: `(N, w)`, alike.

    Returns:
        `(N, C, h, w)` uint8.
    """
    tall = _between(images, row[:, None, :, None], 2)
    wide = _between(tall, column[:, None, None, :], 3)
    return ((wide + (1 << (2 * PLACE_BITS - 1))) >> (2 * PLACE_BITS)).to(torch.uint8)


def _between(values: Tensor, place: Tensor, axis: int) -> Tensor:
    """Weighted sums of neighbours along an axis, int32 with `PLACE_BITS` more than the values."""
    shape = list(values.shape)
    shape[axis] = place.shape[axis]
    lower = place >> PLACE_BITS
    part = (place & ((1 << PLACE_BITS) - 1)).int()
    upper = (lower + 1).clamp(max=values.shape[axis] - 1)
    first, second = (values.gather(axis, at.expand(shape)).int() for at in (lower, upper))
    return first * ((1 << PLACE_BITS) - part) + second * part
