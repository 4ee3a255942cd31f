"""Images or frames of speech with their labels: a split, and a dataset of three splits.

Knows nothing of where the images came from, and nothing of augmentation or devices.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from kd_ray.config.data import Hold
from kd_ray.datasets.packed.images import PackedImages
from kd_ray.datasets.recordings import Recordings

DIGITS = tuple("0123456789")
"""Class names of the datasets of digits."""

FULL_SCALE = {torch.uint8: 255, torch.float16: 1}
"""What counts as 1 in values of a type: pixels are bytes, a spectrum is what it is."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset, in a fixed order: a row number is the identity of an image.

    Attributes:
        name: train, validation or test.
        images: `(N, C, H, W)` uint8 pixels, or float16 of anything else, contiguous, on the CPU;
            or images that are read when they are asked for.
        labels: `(N,)` int64, 0 to K - 1; -1 where a training row's label is not known.
        recordings: of rows that are frames of recordings; None where each row stands alone.
        packed: of a packed dataset, where the images are, even if they are in memory as well.
    """

    name: str
    images: Tensor | PackedImages
    labels: Tensor
    recordings: Recordings | None = None
    packed: PackedImages | None = None

    @property
    def rows(self) -> int:
        """The number N of rows."""
        return len(self.labels)

    def part(self, name: str, rows: Tensor) -> "Split":
        """A split of its own of some rows: `(N,)` bool, or `(n,)` int64 row numbers."""
        packed = None if self.packed is None else self.packed.part(rows)
        images, recordings = self.images_of(rows), self.recordings_of(rows)
        return Split(name, images, self.labels[rows], recordings, packed)

    @property
    def in_memory(self) -> Tensor:
        """All images, `(N, C, H, W)`."""
        images = self.images
        return images if isinstance(images, Tensor) else images[torch.arange(self.rows)]

    def images_of(self, rows: Tensor) -> Tensor | PackedImages:
        """The images of some rows, held as those of the split; arguments as above."""
        return self.images[rows] if isinstance(self.images, Tensor) else self.images.part(rows)

    def recordings_of(self, rows: Tensor) -> Recordings | None:
        """Which recordings some rows are frames of; None where each stands alone."""
        return None if self.recordings is None else self.recordings.part(rows)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of shapes, types, values, labels and recordings, but not of the name.

        Of packed images their files stand for their values, wherever they are held.
        """
        digest = hashlib.sha256()
        recordings = None if self.recordings is None else self.recordings.numbers
        images = None if self.packed is None else self.packed.numbers
        if self.packed is not None:
            digest.update(self.packed.groups.sha256.encode())
        elif isinstance(self.images, Tensor):
            images = self.images
        for tensor in (images, self.labels, recordings):
            if tensor is None:
                continue
            values = tensor.contiguous().numpy()
            values = values.astype(values.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{values.dtype.str} {values.shape};".encode())
            digest.update(values.data if values.size else b"")
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset as a recipe asked for it.

    Attributes:
        name: the key of the dataset catalogue.
        class_names: K names; label k is `class_names[k]`.
        train: what models learn from; never empty.
        validation: rows carved from the training split; possibly none.
        test: the dataset's own test split.
        standardized: whether models are fed pixels of mean 0 and deviation 1.
        hold: where its rows are to be while models learn from them, see `[data]`.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    standardized: bool = True
    hold: Hold = "auto"

    @classmethod
    def of_two(cls, name: str, class_names: tuple[str, ...], train: Split, test: Split) -> Self:
        """A dataset as it is published: without validation rows."""
        none = train.part("validation", torch.empty(0, dtype=torch.int64))
        return cls(name, class_names, train=train, validation=none, test=test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training pixels, which count from 0 to 1; else 0."""
        return self._moments[0] if self.standardized else (0.0,) * self.image_shape[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the training pixels; 1 where they are all equal.

        The population's (divided by the number of pixels), so that one pixel has one, too. 1 also
        where pixels are not standardized.
        """
        return self._moments[1] if self.standardized else (1.0,) * self.image_shape[0]

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the class names and the three splits; the dataset's name does not count."""
        digest = hashlib.sha256()
        for name in self.class_names:
            digest.update(f"{len(name)}:{name};".encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.fingerprint.encode())
        return digest.hexdigest()

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # Counts are exact in any order, and Python divides integers with one rounding: the same
        # figures on every machine.
        means, deviations = [], []
        for values, counts, unit in self._histograms():
            rows = sum(counts)
            total = sum(value * count for value, count in zip(values, counts, strict=True))
            squared = sum(value**2 * count for value, count in zip(values, counts, strict=True))
            variance = (rows * squared - total * total) / (unit * rows) ** 2
            means.append(total / (unit * rows))
            deviations.append(math.sqrt(variance) or 1.0)
        return tuple(means), tuple(deviations)

    def _histograms(self) -> "Iterator[Histogram]":
        images = self.train.images
        if self.train.packed is not None:
            yield from ((range(256), counts, 255) for counts in self.train.packed.histogram)
        elif isinstance(images, Tensor):
            yield from (_histogram(channel.flatten()) for channel in images.unbind(1))


FLOAT16_UNIT = 2**24
"""Every finite float16 is a whole number of 2^-24."""


Histogram = tuple[Sequence[int], Sequence[int], int]
"""The values of a channel as whole numbers, how often each comes, and the number that is 1."""


def _histogram(channel: Tensor) -> Histogram:
    if channel.dtype == torch.uint8:
        return range(256), torch.bincount(channel, minlength=256).tolist(), 255
    bits = torch.bincount(channel.view(torch.int16).int() + 2**15, minlength=2**16)
    there = bits.nonzero().flatten()
    values = (there - 2**15).to(torch.int16).view(torch.float16).double() * FLOAT16_UNIT
    return values.long().tolist(), bits[there].tolist(), FLOAT16_UNIT
