"""Views of images: seeded augmentations that are pure functions of (seed, index, view).

A stored teacher logit and the student's pixels agree because both come from `render` with the same
index and view. All arithmetic is on integers, so that they agree to the last bit on any device.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kd_ray.config import Augment
from kd_ray.datasets.color import jittered
from kd_ray.datasets.counter_random import below, uniform
from kd_ray.datasets.packed.images import PackedImages
from kd_ray.datasets.resize import PLACE_BITS, resized_crop
from kd_ray.errors import ConfigError

# Which draw is for what. A number never changes its meaning, or stored logits would lose their
# pixels; and none depends on which other augmentations are on. 6 to 9 are of `resize`, 10 to 12 of
# `color`.
ROTATE = 0
CROP_ROW, CROP_COLUMN, SHIFT_ROW, SHIFT_COLUMN, FLIP = 1, 2, 3, 4, 5

CACHED_PIXELS = 1 << 20  # at once on a CPU: sums of more of them fall out of its caches
ANGLE_BITS = 20  # binary places of a sine; a source place then has one more, being a half of a sum


def check_augment(augment: Augment, images: Tensor | PackedImages) -> None:
    """Refuses what cannot be done to images, `(N, C, H, W)`.

    Raises:
        ConfigError: `crop` or `shift` is too large for them, or they are no pictures, or none that
            have colors.
    """
    height, width = images.shape[2:]
    # A mirrored border repeats no edge, and a side of one pixel has none.
    cropped = min((side for side in (height, width) if side > 1), default=1)
    for key, pixels, most in (
        ("crop", augment.crop, cropped - 1),
        ("shift", augment.shift, min(height, width)),
    ):
        if pixels > most:
            raise ConfigError(
                f"augment.{key}: must be at most {most} for {height} x {width} images, "
                f"but got {pixels}; lower it"
            )
    if augment.color and images.shape[1] not in (1, 3):
        raise ConfigError(
            "augment.color: is for pictures that are grey or of red, green and blue, but these "
            f"have {images.shape[1]} channels; leave it out"
        )
    if augment != Augment(crop=augment.crop) and images.dtype != torch.uint8:
        raise ConfigError(
            "augment: turns, colors, enlarges, shifts and flips pictures, but these rows are "
            "frames of recordings, of which only crop makes views; leave the others out"
        )


def render(
    images: Tensor, index: Tensor, view: int | Tensor, augment: Augment, seed: int
) -> Tensor:
    """The given views of some images; view 0 is the plain image.

    An image is turned, then a part of it is enlarged, then its colors are changed, then a crop of
    the old size is taken from it with its mirrored border, then it is shifted with black coming in,
    then flipped left to right: whatever `augment` asks for. A side of one pixel, which frames of
    recordings have, is not cropped: a crop moves them in time.

    Args:
        images: `(N, C, H, W)` uint8, or of any type for crops.
        index: `(N,)` int64 row numbers of the images in their split, on the images' device.
        view: one view for all, or `(N,)` int64 on the images' device.
        augment: what may be done to an image.
        seed: chooses among the streams of views.

    Returns:
        `(N, C, H, W)` of the same type; it may be `images` itself, so do not write into it.

    Raises:
        ConfigError: what `check_augment` raises.
    """
    check_augment(augment, images)
    height, width = images.shape[2:]
    if augment.is_identity or (isinstance(view, int) and view == 0):
        return images
    if isinstance(view, int):
        view = torch.full_like(index, view)  # made there: a copy would wait for the device
    piece = max(1, CACHED_PIXELS // max(1, images[:1].numel()))
    if images.device.type == "cpu" and len(images) > piece and augment.has_arithmetic:
        parts = [slice(at, at + piece) for at in range(0, len(images), piece)]
        pieces = [render(images[p], index[p], view[p], augment, seed) for p in parts]
        return torch.cat(pieces)
    changes = view != 0
    if augment.rotate > 0:
        share = uniform(seed, index, view, ROTATE).double() * 2 - 1
        images = rotated(images, share * augment.rotate * changes)
    if augment.resized_crop is not None:
        images = resized_crop(images, augment.resized_crop, seed, index, view, changes)
    if augment.color > 0:
        images = jittered(images, augment.color, seed, index, view, changes)
    if augment.crop == 0 and augment.shift == 0 and not augment.flip:
        return images

    draws = torch.tensor([CROP_ROW, CROP_COLUMN, SHIFT_ROW, SHIFT_COLUMN, FLIP])
    crop, shift = augment.crop, augment.shift
    crops = [crop if side > 1 else 0 for side in (height, width)]
    rest = torch.tensor([*crops, shift, shift, 0])  # the draw that leaves the image alone
    choices = 2 * rest + torch.tensor([1, 1, 1, 1, 1 + augment.flip])
    draws, choices, rest = (
        values[:, None].to(index.device, non_blocking=True) for values in (draws, choices, rest)
    )
    moves = (below(choices, seed, index, view, draws) - rest) * changes
    crop_row, crop_column, shift_row, shift_column, flip = moves[:, :, None]

    rows = torch.arange(height, device=index.device)
    columns = torch.arange(width, device=index.device)
    columns = torch.where(flip == 1, width - 1 - columns, columns)
    row, row_inside = _source(rows, height, shift_row, crop_row)
    column, column_inside = _source(columns, width, shift_column, crop_column)
    taken = _taken(images, row[:, :, None] * width + column[:, None, :])
    if shift:
        taken *= (row_inside[:, :, None] & column_inside[:, None, :])[:, None]
    return taken


def _source(places: Tensor, side: int, shift: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Where along one axis each pixel comes from.

    Args:
        places: `(side,)` or `(N, side)`.
        side: pixels along the axis.
        shift: `(N, 1)` pixels to the right, or down.
        crop: `(N, 1)` pixels from the plain image to the crop.

    Returns:
        `(N, side)` places in the image, and whether each is inside it (else it is black).
    """
    places = places - shift
    inside = (places >= 0) & (places < side)
    places = (places.clamp(0, side - 1) + crop).abs()  # mirrored at the first pixel ...
    return side - 1 - (side - 1 - places).abs(), inside  # ... and at the last


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """Pixels of `(N, C, H, W)` at `(N, h, w)` places in the flattened image: `(N, C, h, w)`."""
    channels = images.shape[1]
    places = places[:, None].expand(-1, channels, -1, -1)
    return images.flatten(2).gather(2, places.flatten(2)).view(places.shape)


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Images turned about their centres: bilinear, black outside, rounded to the nearest integer.

    In fixed point: a bilinear sum in floats falls to either side of a half with the device and the
    batch, and then the teacher's pixel and the student's would differ. An angle of 0 is exact.

    Args:
        images: `(N, C, H, W)` uint8.
        degrees: `(N,)` float64, counter-clockwise.

    Returns:
        `(N, C, H, W)` uint8.
    """
    height, width = images.shape[2:]
    radians = degrees.double().deg2rad()[:, None, None]
    cosine = (radians.cos() * 2**ANGLE_BITS).round().long()
    sine = (radians.sin() * 2**ANGLE_BITS).round().long()
    # Twice the distance from the centre is an integer, for odd and for even sides.
    down = (torch.arange(height, device=images.device) * 2 - (height - 1))[:, None]
    right = torch.arange(width, device=images.device) * 2 - (width - 1)
    row, row_part = _fixed_point(cosine * down + sine * right, height)
    column, column_part = _fixed_point(cosine * right - sine * down, width)

    padded = functional.pad(images, (1, 2, 1, 2)).int()
    place = row.long() * (width + 3) + column
    one = 1 << PLACE_BITS
    total = torch.full_like(padded[:, :, :1, :1], 1 << (2 * PLACE_BITS - 1))  # a half, to round
    for lower, row_share in ((0, one - row_part), (1, row_part)):
        for later, column_share in ((0, one - column_part), (1, column_part)):
            corner = _taken(padded, place + (lower * (width + 3) + later))
            total = total + corner * (row_share * column_share)[:, None]
    return (total >> (2 * PLACE_BITS)).to(torch.uint8)


def _fixed_point(doubled: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A place along one axis of the padded image, as whole pixels and a part of `PLACE_BITS` bits.

    Args:
        doubled: twice the distance from the centre, times 2 to `ANGLE_BITS`.
        side: pixels along the axis; one black pixel comes before them.
    """
    spare = ANGLE_BITS + 1 - PLACE_BITS
    place = (doubled + ((side - 1) << ANGLE_BITS) + (1 << (spare - 1))) >> spare
    place = place.clamp(-(1 << PLACE_BITS), side << PLACE_BITS).int()
    return (place >> PLACE_BITS) + 1, place & ((1 << PLACE_BITS) - 1)
