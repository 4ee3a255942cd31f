"""Images in memory with their labels: a split, and a dataset of three splits.

Knows nothing of where the images came from, and nothing of augmentation or devices.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

DIGITS = tuple("0123456789")
"""Class names of the datasets of digits."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset, in a fixed order: a row number is the identity of an image.

    Attributes:
        name: train, validation or test.
        images: `(N, C, H, W)` uint8, contiguous, on the CPU.
        labels: `(N,)` int64, 0 to K - 1; -1 where a training row's label is not known.
    """

    name: str
    images: Tensor
    labels: Tensor

    @property
    def rows(self) -> int:
        """The number N of rows."""
        return len(self.labels)

    def part(self, name: str, rows: Tensor) -> "Split":
        """A split of its own of some rows: `(N,)` bool, or `(n,)` int64 row numbers."""
        return Split(name, self.images[rows], self.labels[rows])

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of shapes, types, pixels and labels; the split's name does not count."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
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
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    standardized: bool = True

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
        for channel in self.train.images.unbind(1):
            counts = torch.bincount(channel.flatten(), minlength=256).tolist()
            pixels = sum(counts)
            total = sum(value * count for value, count in enumerate(counts))
            squared = sum(value * value * count for value, count in enumerate(counts))
            variance = (pixels * squared - total * total) / (255 * pixels) ** 2
            means.append(total / (255 * pixels))
            deviations.append(math.sqrt(variance) or 1.0)
        return tuple(means), tuple(deviations)
