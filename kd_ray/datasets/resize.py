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
    # Whole rows are copied, then, of the picture lying on its side, whole columns.
    tall = _between(images.permute(0, 2, 3, 1).contiguous(), row)
    wide = _between(tall.transpose(1, 2).contiguous(), column)
    wide.add_(1 << (2 * PLACE_BITS - 1)).bitwise_right_shift_(2 * PLACE_BITS)
    return wide.to(torch.uint8).permute(0, 3, 2, 1).contiguous()


def _between(values: Tensor, place: Tensor) -> Tensor:
    """Weighted sums of neighbouring lines: `(N, lines, ...)` at `(N, n)` -> int32 `(N, n, ...)`.

    They have `PLACE_BITS` more binary places than the values.
    """
    lower = place >> PLACE_BITS
    part = (place & ((1 << PLACE_BITS) - 1)).int()[:, :, None, None]
    image = torch.arange(len(values), device=values.device)[:, None]
    first = values[image, lower].int()
    second = values[image, (lower + 1).clamp(max=values.shape[1] - 1)].int()
    return second.sub_(first).mul_(part).add_(first.bitwise_left_shift_(PLACE_BITS))
