import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from kd_ray.config import Augment
from kd_ray.datasets import views
from kd_ray.datasets.counter_random import below
from kd_ray.datasets.views import render, rotated
from kd_ray.errors import ConfigError

EVERYTHING = Augment(shift=2, crop=3, flip=True, rotate=20.0)
AUGMENTS = [
    Augment(shift=2),
    Augment(crop=3),
    Augment(flip=True),
    Augment(rotate=20.0),
    EVERYTHING,
]
each_augment = pytest.mark.parametrize("augment", AUGMENTS, ids=str)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def slowly(image: Tensor, index: int, view: int, augment: Augment, seed: int) -> Tensor:
    """One image, one step after another, as the documentation says it; no rotation."""

    def draw(limit: int, which: int) -> int:
        return int(below(limit, seed, torch.tensor([index]), view, which))

    pixels = image.numpy()
    height, width = pixels.shape[1:]
    crop, shift = augment.crop, augment.shift
    if crop:
        border = np.pad(pixels, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        top = draw(2 * crop + 1, views.CROP_ROW)
        left = draw(2 * crop + 1, views.CROP_COLUMN)
        pixels = border[:, top : top + height, left : left + width]
    if shift:
        down = draw(2 * shift + 1, views.SHIFT_ROW) - shift
        right = draw(2 * shift + 1, views.SHIFT_COLUMN) - shift
        moved = np.zeros_like(pixels)
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    moved[:, row, column] = pixels[:, row - down, column - right]
        pixels = moved
    if augment.flip and draw(2, views.FLIP):
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(pixels.copy())


@settings(deadline=None)
@given(st.data())
def test_render_equals_the_slow_way(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)))
    side = min(shape[1:])
    augment = Augment(
        shift=data.draw(st.integers(0, side)),
        crop=data.draw(st.integers(0, side - 1)),
        flip=data.draw(st.booleans()),
    )
    seed, view = data.draw(st.integers(0, 2**31 - 1)), data.draw(st.integers(1, 10_000))
    images, index = noise(4, *shape), torch.tensor([5, 0, 70_000, 6])
    rendered = render(images, index, view, augment, seed)
    assert rendered.dtype == torch.uint8
    for image, row, found in zip(images, index.tolist(), rendered, strict=True):
        assert torch.equal(found, slowly(image, row, view, augment, seed))


@each_augment
def test_render_of_view_0_is_the_plain_image(augment: Augment) -> None:
    images, index = noise(20, 3, 9, 8), torch.arange(20)
    assert torch.equal(render(images, index, 0, augment, 1), images)
    assert torch.equal(render(images, index, torch.zeros_like(index), augment, 1), images)
    mixed = render(images, index, index % 2, augment, 1)
    assert torch.equal(mixed[::2], images[::2])
    assert not torch.equal(mixed[1::2], images[1::2])


def test_render_without_augmentation_is_the_plain_image() -> None:
    images = noise(5, 1, 4, 4)
    assert torch.equal(render(images, torch.arange(5), 3, Augment(), 0), images)


@each_augment
def test_render_does_not_depend_on_the_order_or_size_of_the_batch(augment: Augment) -> None:
    images, index = noise(50, 3, 9, 8), torch.arange(50) * 1000
    view = torch.arange(50) % 4
    together = render(images, index, view, augment, 1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = render(images[order], index[order], view[order], augment, 1)
    assert torch.equal(shuffled, together[order])
    alone = [render(images[[i]], index[[i]], int(view[i]), augment, 1) for i in range(50)]
    assert torch.equal(torch.cat(alone), together)


@each_augment
def test_render_does_not_change_its_images(augment: Augment) -> None:
    images = noise(9, 3, 9, 8)
    before = images.clone()
    render(images, torch.arange(9), 1, augment, 1)
    assert torch.equal(images, before)


@each_augment
def test_render_differs_with_view_seed_and_index(augment: Augment) -> None:
    images, index = noise(1, 3, 9, 8).expand(40, -1, -1, -1), torch.arange(40)
    base = render(images, index, 1, augment, 1)
    assert not torch.equal(base, render(images, index, 2, augment, 1))
    assert not torch.equal(base, render(images, index, 1, augment, 2))
    assert not torch.equal(base, render(images, index + 1, 1, augment, 1))


def test_render_gives_an_image_the_same_pixels_beside_more_augmentations() -> None:
    images, index = noise(40, 1, 9, 8), torch.arange(40)
    shifted = render(images, index, 1, Augment(shift=2), 1)
    both = render(images, index, 1, Augment(shift=2, flip=True), 1)
    same, flipped = (both == shifted).all((1, 2, 3)), (both == shifted.flip(3)).all((1, 2, 3))
    assert bool((same | flipped).all())
    assert 5 < int(same.sum()) < 35


def test_render_shifts_by_every_distance_about_equally_often() -> None:
    images = torch.zeros(25_000, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 1
    rendered = render(images, torch.arange(25_000), 1, Augment(shift=2), 1)
    counts = rendered.sum((0, 1), dtype=torch.int64)
    assert int(counts.sum()) == 25_000
    assert int((counts - 1000).abs().max()) < 190  # 6 sigma of 31


def test_render_flips_half_of_the_images() -> None:
    images = torch.tensor([[1, 2]], dtype=torch.uint8).expand(10_000, 1, 1, 2)
    rendered = render(images, torch.arange(10_000), 1, Augment(flip=True), 1)
    assert abs(int((rendered[:, 0, 0, 0] == 2).sum()) - 5000) < 300  # 6 sigma of 50


def test_render_refuses_a_crop_that_its_mirrored_border_cannot_give() -> None:
    images = noise(2, 1, 9, 6)
    index = torch.arange(2)
    assert render(images, index, 1, Augment(crop=5), 0).shape == images.shape
    with pytest.raises(ConfigError, match=r"augment\.crop: must be at most 5.*but got 6"):
        render(images, index, 0, Augment(crop=6), 0)


def test_render_refuses_a_shift_beyond_the_side() -> None:
    images = noise(2, 1, 9, 6)
    index = torch.arange(2)
    assert render(images, index, 1, Augment(shift=6), 0).shape == images.shape
    with pytest.raises(ConfigError, match=r"augment\.shift: must be at most 6.*but got 7"):
        render(images, index, 0, Augment(shift=7), 0)


def test_rotated_by_nothing_is_exactly_the_image() -> None:
    images = noise(6, 3, 9, 8)
    assert torch.equal(rotated(images, torch.zeros(6, dtype=torch.float64)), images)


@pytest.mark.parametrize("side", [8, 9])
def test_rotated_by_right_angles_is_a_permutation_of_pixels(side: int) -> None:
    images = noise(2, 3, side, side)
    for turns in (-1, 1, 2):
        degrees = torch.full((2,), 90.0 * turns, dtype=torch.float64)
        assert torch.equal(rotated(images, degrees), images.rot90(turns, (2, 3)))


@settings(deadline=None)
@given(st.floats(-180, 180), st.sampled_from([5, 8, 28]))
def test_rotated_is_what_grid_sample_gives_within_rounding(degrees: float, side: int) -> None:
    images = noise(2, 3, side, side)
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    cosine, sine = float(radians.cos()), float(radians.sin())
    theta = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0]], dtype=torch.float64)
    grid = functional.affine_grid(theta.expand(2, -1, -1), list(images.shape), align_corners=False)
    expected = functional.grid_sample(images.double(), grid, align_corners=False)
    found = rotated(images, torch.full((2,), degrees, dtype=torch.float64))
    # Half a level of rounding, and 255 levels times a place that is right to 2^-12 on both axes.
    assert float((found.double() - expected).abs().max()) < 0.5 + 2 * 255 * 2**-12 + 0.01


def test_rotated_brings_in_black() -> None:
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    turned = rotated(white, torch.tensor([45.0], dtype=torch.float64))
    assert int(turned[0, 0, 0, 0]) == 0
    assert int(turned[0, 0, 4, 4]) == 255


def test_rotated_keeps_the_aspect_of_oblong_images() -> None:
    images = torch.zeros(1, 1, 4, 11, dtype=torch.uint8)
    images[0, 0, :, 5] = 200
    turned = rotated(images, torch.tensor([180.0], dtype=torch.float64))
    assert torch.equal(turned, images)


def test_render_rotates_up_to_the_given_angle_either_way() -> None:
    images = torch.zeros(200, 1, 41, 41, dtype=torch.uint8)
    images[:, :, 20, 36] = 255  # to the right of the centre, 16 pixels away
    rendered = render(images, torch.arange(200), 1, Augment(rotate=30.0), 1)[:, 0].double()
    rows = torch.arange(41.0, dtype=torch.float64)[:, None] - 20
    up = -(rendered * rows).sum((1, 2)) / rendered.sum((1, 2)) / 16
    degrees = up.clamp(-1, 1).asin().rad2deg()
    assert 25 < float(degrees.max()) < 32
    assert -32 < float(degrees.min()) < -25
    assert abs(float(degrees.mean())) < 5


@pytest.mark.gpu
@each_augment
def test_render_gives_the_same_pixels_on_the_gpu(augment: Augment) -> None:
    images, index = noise(300, 3, 28, 28), torch.arange(300)
    view = index % 3
    there = render(images.cuda(), index.cuda(), view.cuda(), augment, 1)
    assert torch.equal(there.cpu(), render(images, index, view, augment, 1))
