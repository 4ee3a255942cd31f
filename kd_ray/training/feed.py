"""Rows to learn from: a batch is one gather, one view, one normalization.

Most sets fit the device whole (60,000 MNIST images are 47 MB, their logits 1.2 MB), so there are
no loader processes. Others stay in the host's memory, or are streamed; only here is that seen. It
knows nothing of models or files.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import tee
from typing import Any, Literal

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED, Batch, Part
from kd_ray.config import Augment
from kd_ray.config.data import Hold
from kd_ray.datasets import (
    FULL_SCALE,
    Holding,
    PackedImages,
    Recordings,
    Split,
    device_holding,
    render,
)
from kd_ray.errors import ConfigError
from kd_ray.training.order import batch_bounds, cut, shuffled, windows
from kd_ray.units import bytes_shown

PLAIN = Augment()


@dataclass(frozen=True)
class TensorFeed:
    """N images with labels and, for students, teacher logits.

    Attributes:
        pixels: `(N, C, H, W)` uint8, rendered on the fly; or `(N, V, C, H, W)`, rendered before.
            Rows that are no pictures are float16. Or packed images, which are streamed.
        labels: `(N,)` int64, `UNLABELLED` where hidden.
        index: `(N,)` int64 row numbers in the dataset's split; with the view they seed a rendering.
        mean: `(C,)` float32 of pixels in [0, 1], or of what is stored as floats.
        std: as `mean`.
        logits: `(N, V, M, K)` float32 raw teacher logits, or None.
        augment: what a view other than 0 does to an image.
        seed: seed of the views.
        views: V stored views that epochs go through in turn, or "fresh" for a new one each epoch.
        recordings: of rows that are frames of recordings, on the CPU; None where rows stand alone.
        device: where batches are; None for where the labels are.
    """

    pixels: Tensor | PackedImages
    labels: Tensor
    index: Tensor
    mean: Tensor
    std: Tensor
    logits: Tensor | None = None
    augment: Augment = PLAIN
    seed: int = 0
    views: int | Literal["fresh"] = 1
    recordings: Recordings | None = None
    device: torch.device | None = None

    @property
    def rows(self) -> int:
        """The number N of rows."""
        return len(self.labels)

    def to(self, device: torch.device) -> "TensorFeed":
        """A feed of these rows on a device."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        moved = {name: value.to(device) for name, value in tensors.items()}
        return TensorFeed(**given | moved | {"device": device})

    def held(self, device: torch.device, hold: Hold) -> "TensorFeed":
        """A feed of batches on a device, with its rows where `data.hold` wants them."""
        there = self.holding(device, hold).where
        return self.to(device) if there == "device" else replace(self, device=device)

    def holding(self, device: torch.device, hold: Hold) -> Holding:
        """Where its rows are for models on a device, and why."""
        if not isinstance(self.pixels, Tensor):
            return Holding("stream", self.pixels.why)
        tensors = [self.pixels] if self.logits is None else [self.pixels, self.logits]
        return device_holding(hold, sum(tensor.nbytes for tensor in tensors), device)

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
        bounds = batch_bounds(self.rows, batch_size)[first:]
        if isinstance(self.pixels, Tensor):
            order = shuffled(self.rows, seed, epoch)
            pieces = (order[start:stop] for start, stop in bounds)
        else:
            _check_window(self.pixels, batch_size)
            groups, skipped = self.pixels.window_groups, bounds[0][0] if bounds else 0
            shown = windows(self.pixels.starts.tolist(), groups, seed, epoch, skipped)
            # In ascending order, so that each worker's part lies in few of the groups.
            pieces = (rows.sort().values for rows in cut(shown, (stop - s for s, stop in bounds)))
        return self.of(pieces, epoch, part)

    def of(self, pieces: Iterable[Tensor], epoch: int, part: Part = slice) -> Iterator[Batch]:
        """The batches of given rows.

        Args:
            pieces: row numbers of global batches, `(N,)` int64 each, on the CPU.
            epoch: 1-based; it chooses the view.
            part: this worker's part of a global batch.
        """
        if isinstance(self.pixels, Tensor):
            yield from (self.batch(rows, part(len(rows)), epoch) for rows in pieces)
            return
        whole, ahead = tee(pieces)
        images = self.pixels.follow(rows[part(len(rows))] for rows in ahead)
        for rows, some in zip(whole, images, strict=True):
            yield self._joined(rows, part(len(rows)), some, epoch)

    def batch(self, order: Tensor, mine: slice, epoch: int) -> Batch:
        """The global batch of the rows `order`, `(N,)` int64 on the CPU, restricted to a slice.

        Args:
            order: row numbers of the global batch.
            mine: this worker's part of `order`.
            epoch: 1-based; it chooses the view.
        """
        rows = order[mine]
        if not isinstance(self.pixels, Tensor):
            return self._joined(order, mine, self.pixels[rows], epoch)
        rows = rows.to(self.labels.device, non_blocking=True)
        stored = self.pixels[:, self.view(epoch)] if self.pixels.dim() == 5 else self.pixels
        return self._joined(order, mine, stored.index_select(0, rows), epoch)

    def _joined(self, order: Tensor, mine: slice, images: Tensor, epoch: int) -> Batch:
        """The batch of a slice of `order`, whose images are there as they are stored."""
        rows = order[mine].to(self.labels.device, non_blocking=True)
        view, known, device = self.view(epoch), self._labelled, self.device or self.labels.device
        images = images.to(device, non_blocking=True)
        is_rendered = isinstance(self.pixels, Tensor) and self.pixels.dim() == 5
        if view and not is_rendered and not self.augment.is_identity:
            index = self.index[rows].to(device, non_blocking=True)
            images = render(images, index, view, self.augment, self.seed)
        # An index would go through the elements of a row one by one.
        logits = None if self.logits is None else self.logits[:, view].index_select(0, rows)
        return Batch(
            images=_scaled(images, *self._affine),
            labels=self.labels.index_select(0, rows).to(device, non_blocking=True),
            teacher_logits=None if logits is None else logits.to(device, non_blocking=True).float(),
            global_rows=len(order),
            global_labelled=len(order) if known is None else int(known[order].sum()),
        )

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        scale, offset = _affine(self.mean, self.std, self.pixels.dtype)
        device = self.device or self.labels.device
        return scale.to(device), offset.to(device)

    @cached_property
    def _labelled(self) -> Tensor | None:
        """`(N,)` bool on the CPU, or None where no label is hidden (so no count is needed)."""
        labelled = (self.labels != UNLABELLED).cpu()
        return None if bool(labelled.all()) else labelled


def _check_window(images: PackedImages, batch_size: int) -> None:
    """Refuses windows in which there is nothing to shuffle."""
    window_rows = images.window_groups * images.groups.plan.group_rows
    if window_rows < min(batch_size, len(images)):
        group, rows = images.groups.largest_bytes, images.groups.plan.group_rows
        needed = -(-8 * group * -(-batch_size // rows) // 3)
        raise ConfigError(
            f"data.buffer_bytes: the rows that are shuffled together must be at least those of a "
            f"batch ({batch_size}), but in {bytes_shown(images.buffer_bytes)} are {window_rows}; "
            f"raise it to {needed:,} or more, or lower train.batch_size"
        )


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
    return pixels.mul_(scale).add_(offset)


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
        pixels=feed.pixels[rows] if isinstance(feed.pixels, Tensor) else feed.pixels.part(rows),
        labels=feed.labels[rows],
        index=feed.index[rows],
        logits=None if feed.logits is None else feed.logits[rows],
        recordings=None if feed.recordings is None else feed.recordings.part(rows),
    )
