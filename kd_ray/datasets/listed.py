"""From lists of pictures and labels to a dataset: one way for every reader of a user's own data."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.labels import Label, check_names, class_names_of, numbers_of
from kd_ray.datasets.picture import Pixels, read_picture
from kd_ray.datasets.selection import with_test_share
from kd_ray.errors import DataError
from kd_ray.machine import memory_bytes

if TYPE_CHECKING:
    from PIL import Image

TEST_SHARE = 0.2
AT_ONCE = 1024
"""Pictures that are decoded together, so that no more are in memory as files."""

Picture: TypeAlias = "Path | bytes | Image.Image | Tensor"
"""What `read_picture` decodes, or pixels `(C, H, W)` uint8."""


@dataclass(frozen=True)
class Listed:
    """The N pictures of a split in their order, none of them decoded yet.

    Attributes:
        places: what messages call each of them.
        labels: the label of each.
        pictures: gives each once.
    """

    places: Sequence[object]
    labels: Sequence[Label]
    pictures: Iterable[Picture]

    @classmethod
    def of(cls, parts: "Sequence[Listed]") -> "Listed":
        """All of them, one after the other."""
        return cls(
            [place for part in parts for place in part.places],
            [label for part in parts for label in part.labels],
            chain.from_iterable(part.pictures for part in parts),
        )


@dataclass(frozen=True)
class Numbered:
    """The labels of a dataset as numbers.

    Attributes:
        class_names: K names.
        train: `(N,)` int64, 0 to K - 1, or `UNLABELLED`.
        test: `(n,)` int64, 0 to K - 1; None where some training rows are to become the test split.
    """

    class_names: tuple[str, ...]
    train: Tensor
    test: Tensor | None


@dataclass(frozen=True)
class Lists:
    """What a reader of pictures has found, none of them decoded yet.

    Attributes:
        where: what messages call the whole.
        train: pictures to learn from, labelled or not.
        test: pictures to test on; None where a fixed fifth of every class is to become that.
        classes: K names; None where the labels of the training pictures, sorted, are the names.
    """

    where: object
    train: Listed
    test: Listed | None
    classes: Sequence[str] | None

    def numbered(self) -> "Numbered":
        """The labels; see `numbered`."""
        return numbered(self.where, self.train, self.test, self.classes)


def dataset_of(lists: Lists, options: DataOptions) -> Dataset:
    """The dataset of pictures that were listed.

    See `numbered` and `pixels_of`, which it calls in this order, so that a label that is none is
    found before pictures are decoded.
    """
    labels = lists.numbered()
    images = pixels_of(lists.train, lists.test, options.image_size)
    return with_pixels(options.name, labels, images)


def numbered(
    where: object, train: Listed, test: Listed | None, classes: Sequence[str] | None
) -> Numbered:
    """The labels of listed pictures.

    Args:
        where: what messages call the whole.
        train: pictures to learn from, labelled or not.
        test: pictures to test on; None where a fixed fifth of every class is to become that.
        classes: K names; None where the labels of the training pictures, sorted, are the names.

    Raises:
        DataError: a split is empty, a label is none, or names do not tell classes apart.
    """
    check_rows(where, train, test)
    names = class_names_of(train.labels) if classes is None else tuple(classes)
    check_names(where, names)
    numbers = numbers_of(train.places, train.labels, names, classes is not None)
    if not (numbers != UNLABELLED).any():
        raise DataError(
            f"{where}: teachers learn from labels, but no training picture has one; label some"
        )
    if test is None:
        _check_carved(where, numbers, names)
        return Numbered(names, numbers, None)
    test_numbers = numbers_of(test.places, test.labels, names, classes is not None)
    if (bare := (test_numbers == UNLABELLED).nonzero()).numel():
        raise DataError(
            f"{test.places[int(bare[0])]}: a picture of the test split must have a label, but has "
            "none; label it, or take it out of the test split"
        )
    return Numbered(names, numbers, test_numbers)


def with_pixels(name: str, labels: Numbered, images: Tensor) -> Dataset:
    """The dataset of labels and of the pixels of both splits, training first."""
    rows = len(labels.train)
    train = Split("train", images[:rows], labels.train)
    if labels.test is None:
        return with_test_share(name, labels.class_names, train, TEST_SHARE)
    test = Split("test", images[rows:], labels.test)
    return Dataset.of_two(name, labels.class_names, train, test)


def check_rows(where: object, train: Listed, test: Listed | None) -> None:
    """Raises `DataError` where a split is empty."""
    for split, listed in (("training", train), ("test", test)):
        if listed is not None and not listed.places:
            raise DataError(
                f"{where}: the {split} split must have pictures, but has none; add some"
            )


def _check_carved(where: object, labels: Tensor, names: Sequence[str]) -> None:
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=len(names))
    if single := (counts == 1).nonzero().flatten().tolist():
        raise DataError(
            f"{where}: class {names[single[0]]} must have at least two pictures, one to learn from "
            "and one to test on, but has one; add pictures"
        )


def pixels_of(train: Listed, test: Listed | None, size: int | None) -> Tensor:
    """The pictures of both splits as `(N, C, H, W)` uint8, in their order on any number of threads.

    Args:
        train: the first of them.
        test: the others, if any.
        size: side in pixels to which pictures are resized; None where all have one size.

    Raises:
        DataError: one cannot be read, or has another size than the first.
    """
    listed = train if test is None else Listed.of([train, test])

    def decoded(row: tuple[object, Picture]) -> Pixels:
        place, picture = row
        if isinstance(picture, Tensor):
            return picture.numpy()
        name = None if isinstance(picture, Path) else place
        return read_picture(picture, size, name).transpose(2, 0, 1)

    rows = zip(listed.places, listed.pictures, strict=True)
    pixels: Pixels | None = None
    done = 0
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter lock
        while some := list(islice(rows, AT_ONCE)):
            for picture in pool.map(decoded, some):
                if pixels is None:
                    pixels = _room(len(listed.places), picture.shape)
                if picture.shape != pixels.shape[1:]:
                    raise DataError(
                        f"{listed.places[done]}: all pictures must have the size of the first one, "
                        f"{_size(pixels.shape[1:])}, but this is {_size(picture.shape)}; make "
                        "them one size (data.image_size resizes pictures)"
                    )
                pixels[done] = picture
                done += 1
    assert pixels is not None  # no split is empty
    return torch.from_numpy(pixels)


def _room(rows: int, shape: tuple[int, ...]) -> Pixels:
    needed, has = rows * int(np.prod(shape)), memory_bytes()
    if needed > has:
        raise DataError(
            f"data: {rows:,} pictures of {_size(shape)} are {needed / 1e9:,.0f} GB in memory, but "
            f"this machine has {has / 1e9:.0f} GB; lower data.image_size, or "
            "make a set that streams with kd-ray pack"
        )
    return np.empty((rows, *shape), np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    """Width, height and channels of `(C, H, W)` in words."""
    channels, height, width = shape
    return f"{width} x {height} pixels of {channels} channels"
