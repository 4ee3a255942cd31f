import hashlib
import pickle
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.datasets import Dataset, Split


def split(images: Tensor, labels: list[int] | None = None, name: str = "train") -> Split:
    return Split(name, images, torch.tensor([0] * len(images) if labels is None else labels))


def dataset(images: Tensor, **changes: object) -> Dataset:
    parts = {name: split(images[:0], [], name) for name in ("validation", "test")}
    values = {"name": "any", "class_names": ("a", "b"), "train": split(images), **parts}
    return Dataset(**(values | changes))  # type: ignore[arg-type]


PIXELS = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), min_size=4, max_size=40))
def test_dataset_mean_and_std_are_those_of_the_pixels_in_double(values: list[int]) -> None:
    values = values[: len(values) // 4 * 4]
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 2, 1, 2)
    found = dataset(images)
    pixels = images.transpose(0, 1).flatten(1).double() / 255
    std = pixels.std(1, correction=0)
    assert found.mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-12)
    assert found.std == pytest.approx(torch.where(std == 0, 1.0, std).tolist(), abs=1e-7)


def test_dataset_std_of_a_constant_channel_is_1() -> None:
    images = torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)
    assert dataset(images).std == (1.0,)
    assert dataset(images).mean == (7 / 255,)


def test_dataset_mean_and_std_do_not_depend_on_the_order_of_rows() -> None:
    images = torch.randint(0, 256, (500, 3, 4, 4), dtype=torch.uint8)
    one, other = dataset(images), dataset(images.flip(0))
    assert (one.mean, one.std) == (other.mean, other.std)


def test_split_fingerprint_changes_with_a_pixel_a_label_the_order_and_the_shape() -> None:
    base = split(PIXELS, [0, 1])
    other_pixel = PIXELS.clone()
    other_pixel[1, 2, 1, 1] += 1
    changed = [
        split(other_pixel, [0, 1]),
        split(PIXELS, [1, 1]),
        split(PIXELS.flip(0), [0, 1]),
        split(PIXELS.view(2, 3, 4, 1), [0, 1]),
    ]
    assert len({part.fingerprint for part in [base, *changed]}) == 5


def test_split_fingerprint_is_of_the_content_and_not_of_name_or_memory() -> None:
    base = split(PIXELS, [0, 1])
    strided = PIXELS.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    assert not strided.is_contiguous()
    assert split(strided, [0, 1], name="test").fingerprint == base.fingerprint
    assert pickle.loads(pickle.dumps(base)).fingerprint == base.fingerprint


def test_split_fingerprint_is_the_same_on_every_machine() -> None:
    content = b"|u1 (2, 3, 2, 2);" + bytes(range(24)) + b"<i8 (2,);" + struct.pack("<2q", 0, 1)
    assert split(PIXELS, [0, 1]).fingerprint == hashlib.sha256(content).hexdigest()


def test_dataset_fingerprint_covers_class_names_and_every_split_but_not_the_name() -> None:
    base = dataset(PIXELS)
    same = dataset(PIXELS, name="other")
    changed = [
        dataset(PIXELS, class_names=("a", "c")),
        dataset(PIXELS, class_names=("ab",)),
        dataset(PIXELS, train=split(PIXELS[:1])),
        dataset(PIXELS, validation=split(PIXELS[:1])),
        dataset(PIXELS, test=split(PIXELS[:1])),
    ]
    assert same.fingerprint == base.fingerprint
    assert len({one.fingerprint for one in [base, *changed]}) == 6


def test_dataset_image_shape_is_that_of_one_image() -> None:
    assert dataset(PIXELS).image_shape == (3, 2, 2)
