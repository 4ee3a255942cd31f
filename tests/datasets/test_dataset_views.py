import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from kd_ray.config import Augment
from kd_ray.datasets import color, resize, views
from kd_ray.datasets.counter_random import below
from kd_ray.datasets.views import render, rotated
from kd_ray.errors import ConfigError

EVERYTHING = Augment(shift=2, crop=3, flip=True, rotate=20.0, resized_crop=[0.35, 1.0], color=0.4)
AUGMENTS = [
    Augment(shift=2),
    Augment(crop=3),
    Augment(flip=True),
    Augment(rotate=20.0),
    Augment(resized_crop=[0.35, 1.0]),
    Augment(color=0.4),
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


@given(st.integers(1, 30), st.data())
def test_render_crops_frames_of_recordings_in_time_alone(length: int, data: st.DataObject) -> None:
    crop = data.draw(st.integers(0, length - 1), "crop")
    frames, view = noise(7, 3, 1, length).to(torch.float16), data.draw(st.integers(0, 9), "view")
    rendered = render(frames, torch.arange(7), view, Augment(crop=crop), 5)
    assert rendered.dtype == torch.float16
    border = np.pad(frames.numpy(), ((0, 0), (0, 0), (0, 0), (crop, crop)), mode="reflect")
    for index in range(7):
        at = int(below(2 * crop + 1, 5, torch.tensor([index]), view, views.CROP_COLUMN))
        at = at if view else crop
        assert torch.equal(rendered[index], torch.from_numpy(border[index, :, :, at : at + length]))


@pytest.mark.parametrize("value", [{"shift": 1}, {"flip": True}, {"rotate": 1}, {"color": 1}])
def test_render_refuses_what_makes_no_sense_of_frames(value: dict[str, object]) -> None:
    frames = torch.zeros(2, 3, 1, 26, dtype=torch.float16)
    with pytest.raises(ConfigError, match="frames of recordings, of which only crop makes views"):
        render(frames, torch.arange(2), 1, Augment.model_validate(value), 0)


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


def test_render_of_identity_ranges_is_the_plain_image() -> None:
    images, index = noise(30, 3, 9, 8), torch.arange(30)
    whole = Augment(resized_crop=[1.0, 1.0])
    assert not whole.is_identity
    assert torch.equal(render(images, index, 1, whole, 1), images)
    alike = torch.ones(30, dtype=torch.bool)
    assert torch.equal(color.jittered(images, 0.0, 1, index, 1, alike), images)


def parts(augment: Augment, side: int = 200) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of many views: first row and column, height and width of the part, in pixels."""
    ramp = torch.arange(side, dtype=torch.uint8)
    images = torch.stack([ramp[:, None].expand(side, side), ramp.expand(side, side)])
    images = images.expand(400, -1, -1, -1)
    found = render(images, torch.arange(400), 1, augment, 1).double()
    (top, bottom), (left, right) = (
        (line[:, 10], line[:, -11]) for line in (found[:, 0, :, 0], found[:, 1, 0])
    )
    height, width = (
        (end - start) * side / (side - 21) for start, end in ((top, bottom), (left, right))
    )
    return top - height * 10 / side, left - width * 10 / side, height, width


def test_render_takes_parts_of_the_areas_asked_for_that_lie_inside() -> None:
    top, left, height, width = parts(Augment(resized_crop=[0.35, 0.8]))
    share = height * width / 200**2
    assert 0.34 < float(share.min()) < 0.38
    assert 0.77 < float(share.max()) < 0.82
    assert float((width / height).max()) < 4 / 3 + 0.03
    assert float((width / height).min()) > 3 / 4 - 0.03
    for start, size in ((top, height), (left, width)):
        assert float(start.min()) > -2
        assert float((start + size).max()) < 202
        assert float(start.max()) > 40


@settings(deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([(5, 8), (28, 28), (9, 4)]), st.integers(1, 2**20))
def test_resampled_is_what_grid_sample_gives_within_a_level(
    begin: int, shape: tuple[int, int], size: int
) -> None:
    images = noise(2, 3, *shape)
    places, grids = [], []
    for side in shape:
        first = begin * side * (2**20 - size) // 2**20
        places.append(resize.places(torch.tensor([first, 0]), torch.tensor([size, 2**20]), side))
        exact = (torch.arange(side).double() + 0.5) * size / 2**20 + first / 2**20
        grids.append(torch.stack([exact, torch.arange(side).double() + 0.5]) * 2 / side - 1)
    rows, columns = grids
    grid = torch.stack(
        [columns[:, None].expand(2, *shape), rows[:, :, None].expand(2, *shape)], dim=3
    )
    expected = functional.grid_sample(
        images.double(), grid, align_corners=False, padding_mode="border"
    )
    found = resize.resampled(images, *places)
    assert torch.equal(found[1], images[1])
    assert float((found.double() - expected).abs().max()) < 1


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 3]))
def test_jittered_is_what_floats_give_within_a_level(view: int, channels: int) -> None:
    images, index = noise(8, channels, 6, 5), torch.arange(8)
    found = color.jittered(images, 0.5, 3, index, view, torch.ones(8, dtype=torch.bool))
    weights = torch.tensor([77.0, 150, 29], dtype=torch.float64)[:channels, None, None]

    def grey(x: Tensor) -> Tensor:
        return (x * weights / weights.sum()).sum(1, keepdim=True)

    def factor(draw: int) -> Tensor:
        return (1 + (below(1025, 3, index, view, draw) - 512) / 1024.0)[:, None, None, None]

    exact = (images.double() * factor(color.BRIGHTNESS)).clamp(0, 255)
    mean = grey(exact).mean((2, 3), keepdim=True)
    exact = (mean + (exact - mean) * factor(color.CONTRAST)).clamp(0, 255)
    if channels == 3:
        exact = (grey(exact) + (exact - grey(exact)) * factor(color.SATURATION)).clamp(0, 255)
    assert float((found.double() - exact).abs().max()) < 1


def test_render_refuses_colors_of_pictures_that_have_none() -> None:
    images, index = noise(2, 2, 9, 6), torch.arange(2)
    with pytest.raises(ConfigError, match=r"augment\.color: .* but these have 2 channels"):
        render(images, index, 1, Augment(color=0.1), 0)


@pytest.mark.gpu
@each_augment
def test_render_gives_the_same_pixels_on_the_gpu(augment: Augment) -> None:
    images, index = noise(300, 3, 28, 28), torch.arange(300)
    view = index % 3
    there = render(images.cuda(), index.cuda(), view.cuda(), augment, 1)
    assert torch.equal(there.cpu(), render(images, index, view, augment, 1))
