"""Rows as tensors on the device: a batch is one gather, one view, one normalization.

Sets that are distilled from nearly always fit the device whole (60,000 MNIST images are 47 MB,
their logits 1.2 MB), so there are no loader processes. It knows nothing of models or files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED, Batch, Part
from kd_ray.config import Augment
from kd_ray.datasets import FULL_SCALE, Recordings, Split, render
from kd_ray.training.order import batch_bounds, shuffled

PLAIN = Augment()


@dataclass(frozen=True)
class TensorFeed:
    """N images with labels and, for students, teacher logits.

    Attributes:
        pixels: `(N, C, H, W)` uint8, rendered on the fly; or `(N, V, C, H, W)`, rendered before.
            Rows that are no pictures are float16.
        labels: `(N,)` int64, `UNLABELLED` where hidden.
        index: `(N,)` int64 row numbers in the dataset's split; with the view they seed a rendering.
        mean: `(C,)` float32 of pixels in [0, 1], or of what is stored as floats.
        std: as `mean`.
        logits: `(N, V, M, K)` float32 raw teacher logits, or None.
        augment: what a view other than 0 does to an image.
        seed: seed of the views.
        views: V stored views that epochs go through in turn, or "fresh" for a new one each epoch.
        recordings: of rows that are frames of recordings, on the CPU; None where rows stand alone.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    mean: Tensor
    std: Tensor
    logits: Tensor | None = None
    augment: Augment = PLAIN
    seed: int = 0
    views: int | Literal["fresh"] = 1
    recordings: Recordings | None = None

    @property
    def rows(self) -> int:
        """The number N of rows."""
        return len(self.labels)

    def to(self, device: torch.device) -> "TensorFeed":
        """A feed of these rows on a device."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        return TensorFeed(**given | {name: value.to(device) for name, value in tensors.items()})

    def view(self, epoch: int) -> int:
        """The view that an epoch (1-based) shows of every image.

        With V stored views, epoch e shows view (e - 1) mod V, so that the number of steps in an
        epoch does not depend on V; fresh views are numbered like the epochs and so never plain.
        """
        return epoch if self.views == "fresh" else (epoch - 1) % self.views

    def batches(
        self, seed: int, epoch: int, batch_size: int, first: int, part: Part
    ) -> Iterator[Batch]:
        """All rows in an order of their own for each epoch; see `batch.Feed`."""
        return self.in_order(shuffled(self.rows, seed, epoch), epoch, batch_size, first, part)

    def in_order(
        self, order: Tensor, epoch: int, batch_size: int, first: int, part: Part
    ) -> Iterator[Batch]:
        """The batches of an epoch of the rows `order`, `(n,)` int64 on the CPU."""
        for start, stop in batch_bounds(len(order), batch_size)[first:]:
            yield self.batch(order[start:stop], part(stop - start), epoch)

    def batch(self, order: Tensor, mine: slice, epoch: int) -> Batch:
        """The global batch of the rows `order`, `(N,)` int64 on the CPU, restricted to a slice.

        Args:
            order: row numbers of the global batch.
            mine: this worker's part of `order`.
            epoch: 1-based; it chooses the view.
        """
        rows = order[mine].to(self.labels.device, non_blocking=True)
        view, known = self.view(epoch), self._labelled
        if self.pixels.dim() == 5:
            images = self.pixels[rows, view]
        else:
            images = self.pixels[rows]
            if view and not self.augment.is_identity:
                images = render(images, self.index[rows], view, self.augment, self.seed)
        return Batch(
            images=_scaled(images, *self._affine),
            labels=self.labels[rows],
            teacher_logits=None if self.logits is None else self.logits[rows, view],
            global_rows=len(order),
            global_labelled=len(order) if known is None else int(known[order].sum()),
        )

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return _affine(self.mean, self.std, self.pixels.dtype)

    @cached_property
    def _labelled(self) -> Tensor | None:
        """`(N,)` bool on the CPU, or None where no label is hidden (so no count is needed)."""
        labelled = (self.labels != UNLABELLED).cpu()
        return None if bool(labelled.all()) else labelled


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images `(N, C, H, W)` as every model is given them, to the last bit what `TensorFeed` feeds.

    To float32, channels last; `mean` and `std` are `(C,)` of pixels in [0, 1], or of floats.
    """
    return _scaled(images, *_affine(mean, std, images.dtype))


def _affine(mean: Tensor, std: Tensor, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scale and the offset of each channel, for values as they are stored."""
    shape = (1, -1, 1, 1)
    return (1 / (FULL_SCALE[stored] * std)).view(shape), (-mean / std).view(shape)


def _scaled(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul(offset, pixels, scale)


def feed_of(split: Split, mean: Sequence[float], std: Sequence[float]) -> TensorFeed:
    """All plain images of a split, with its labels."""
    return TensorFeed(
        pixels=split.images,
        labels=split.labels,
        index=torch.arange(len(split.labels)),
        mean=torch.tensor(mean, dtype=torch.float32),
        std=torch.tensor(std, dtype=torch.float32),
        recordings=split.recordings,
    )


def labelled(feed: TensorFeed) -> TensorFeed:
    """The rows of a feed whose labels are known."""
    known = feed.labels != UNLABELLED
    return feed if bool(known.all()) else taken(feed, known.nonzero().flatten())


def taken(feed: TensorFeed, rows: Tensor) -> TensorFeed:
    """Some rows of a feed, `(n,)` int64 on its device, in the given order; ascending of frames."""
    return replace(
        feed,
        pixels=feed.pixels[rows],
        labels=feed.labels[rows],
        index=feed.index[rows],
        logits=None if feed.logits is None else feed.logits[rows],
        recordings=None if feed.recordings is None else feed.recordings.part(rows),
    )
