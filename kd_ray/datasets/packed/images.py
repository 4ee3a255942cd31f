"""The images of a packed split: read by group and decoded when they are asked for.

Groups that come next are read, and pictures decoded, ahead of whoever asks, within a bound of
bytes. It knows nothing of labels, and nothing of why rows are asked for in an order.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_ray.datasets.labels import Place
from kd_ray.datasets.packed.groups import Groups
from kd_ray.datasets.picture import read_picture
from kd_ray.errors import DataError, KdRayError
from kd_ray.machine import usable_cpus

Numbers: TypeAlias = npt.NDArray[np.int64]
Group: TypeAlias = Any
"""Pixels, or a column of pictures."""
Parts: TypeAlias = "dict[int, Future[Group]]"
"""Groups that are being read, by their number."""


@dataclass(frozen=True, eq=False)
class PackedImages:
    """N images of a split.

    Attributes:
        groups: where they are.
        buffer_bytes: what may be held of them in memory at once.
        histogram: how often each of the 256 values is a pixel of the dataset's training rows, for
            each channel.
        numbers: `(N,)` int64 which rows of the split they are, ascending; None for all of them.
        why: they are streamed, where they are: the clause of a sentence.
    """

    groups: Groups
    buffer_bytes: int
    histogram: Sequence[Sequence[int]]
    numbers: Tensor | None = None
    why: str = ""

    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        """`(N, C, H, W)`."""
        return torch.Size([len(self), *self.groups.plan.image_shape])

    def __len__(self) -> int:
        return int(self.groups.starts[-1]) if self.numbers is None else len(self.numbers)

    def part(self, rows: Tensor) -> "PackedImages":
        """Some of them: `(N,)` bool, or `(n,)` int64 row numbers, which ascend."""
        numbers = torch.arange(len(self)) if self.numbers is None else self.numbers
        return replace(self, numbers=numbers[rows])

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Some of them decoded, `(n, C, H, W)` uint8, in any order."""
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        if not len(rows):
            return images
        order = rows.argsort()
        of_group = np.searchsorted(self.starts, rows[order].numpy(), "right")
        sizes = np.diff([0, *np.flatnonzero(np.diff(of_group)) + 1, len(rows)]).tolist()
        pieces = torch.split(order, sizes)
        for places, part in zip(pieces, self.follow(rows[some] for some in pieces), strict=True):
            images[places] = part
        return images

    @cached_property
    def starts(self) -> Numbers:
        """The first of them in each group, and behind them N: `(G + 1,)`."""
        if self.numbers is None:
            return self.groups.starts
        return np.searchsorted(self.numbers.numpy(), self.groups.starts)

    @property
    def window_groups(self) -> int:
        """Groups whose rows may be shuffled together, while as many that come next are read."""
        return max(1, 3 * self.buffer_bytes // 8 // self.groups.largest_bytes)

    def follow(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each piece, `(n, C, H, W)` uint8.

        Args:
            pieces: row numbers, `(n,)` int64 each, which ascend. They are looked at some time
                ahead: as far as the groups that they are in, and their images, fit the buffer.
        """
        reader = ThreadPoolExecutor(self.groups.readers, "read")
        decoder = ThreadPoolExecutor(usable_cpus(), "decode")
        groups: dict[int, Future[Group]] = {}
        uses: Counter[int] = Counter()
        loading: deque[tuple[Numbers, list[int]]] = deque()
        decoding: deque[tuple[Tensor, list[Future[None]], list[int]]] = deque()
        following = self._placed(pieces)
        piece = next(following, None)
        read = self._reading()
        try:
            while piece or loading or decoding:
                while piece:
                    new = [group for group in piece[1] if group not in groups]
                    if groups and len(groups) + len(new) > 2 * self.window_groups:
                        break
                    groups |= {group: reader.submit(read, group) for group in new}
                    uses.update(piece[1])
                    loading.append(piece)
                    piece = next(following, None)
                while loading and len(decoding) <= self._depth(len(loading[0][0])):
                    rows, needed = loading.popleft()
                    parts = {group: groups[group] for group in needed}
                    decoding.append((*self._decoded(decoder, rows, parts), needed))
                    del parts  # a group is in memory as long as one of these knows it
                images, parts_done, needed = decoding.popleft()
                for part in parts_done:
                    part.result()
                uses.subtract(needed)
                for group in needed:
                    if not uses[group]:
                        del uses[group], groups[group]
                yield images
        finally:
            for pool in (reader, decoder):
                pool.shutdown(cancel_futures=True)

    def _depth(self, rows: int) -> int:
        """How many pieces of so many rows may wait decoded."""
        piece_bytes = max(1, rows * self.groups.plan.image_bytes)
        return min(8, max(1, self.buffer_bytes // 4 // piece_bytes))

    def _placed(self, pieces: Iterable[Tensor]) -> Iterator[tuple[Numbers, list[int]]]:
        """The pieces as rows of the split, and the groups that these are in."""
        for piece in pieces:
            rows: Numbers = (piece if self.numbers is None else self.numbers[piece]).numpy()
            yield rows, np.unique(self._group_of(rows)).tolist()

    def _group_of(self, rows: Numbers) -> Numbers:
        return np.searchsorted(self.groups.starts, rows, "right") - 1

    def _decoded(
        self, pool: ThreadPoolExecutor, rows: Numbers, parts: Parts
    ) -> tuple[Tensor, list[Future[None]]]:
        """Images that are being decoded, and what does that."""
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        if not self.groups.plan.encoded:
            return images, [pool.submit(self._copy, images, rows, parts)]
        cuts = [len(rows) * n // usable_cpus() for n in range(usable_cpus() + 1)]
        return images, [
            pool.submit(self._decode, images[start:stop], rows[start:stop], parts)
            for start, stop in pairwise(cuts)
            if start < stop
        ]

    def _reading(self) -> Callable[[int], Group]:
        """Reads groups until one cannot be: a silent store takes minutes to fail, so no more."""
        failed = list[KdRayError]()

        def read(group: int) -> Group:
            if failed:
                raise failed[0]
            try:
                return self._read(group)
            except KdRayError as error:
                failed.append(error)
                raise

        return read

    def _read(self, group: int) -> Group:
        """The images of a group: pixels `(n, C * H * W)`, or pictures as files hold them."""
        column, width = self.groups.read(group), self.groups.plan.image_bytes
        if self.groups.plan.encoded:
            return column
        pixels = np.frombuffer(column.buffers()[1], np.uint8)
        return pixels[column.offset * width :][: len(column) * width].reshape(-1, width)

    def _copy(self, images: Tensor, rows: Numbers, parts: Parts) -> None:
        """Pixels as they are."""
        flat = images.view(len(rows), self.groups.plan.image_bytes).numpy()
        for places, group, local in self._by_group(rows):
            # Without the mode numpy would check and copy once more.
            np.take(parts[group].result(), local, axis=0, out=flat[places], mode="clip")

    def _decode(self, images: Tensor, rows: Numbers, parts: Parts) -> None:
        """Pictures as files hold them."""
        plan, pixels = self.groups.plan, images.numpy()
        for places, group, local in self._by_group(rows):
            column = parts[group].result()
            for place, number in enumerate(local.tolist(), places.start):
                where = Place(self.groups.folder / self.groups.places[group][0].name, number)
                picture = read_picture(column[number].as_py(), plan.image_size, where)
                if picture.shape != (*pixels.shape[2:], pixels.shape[1]):
                    raise DataError(f"{where}: must have the size of the others; pack it anew")
                pixels[place] = picture.transpose(2, 0, 1)

    def _by_group(self, rows: Numbers) -> Iterator[tuple[slice, int, Numbers]]:
        """Places of rows of one group, the group, and their numbers in it."""
        of_row = self._group_of(rows)
        cuts = [0, *(np.flatnonzero(np.diff(of_row)) + 1).tolist(), len(rows)]
        for start, stop in pairwise(cuts if len(rows) else ()):
            group = int(of_row[start])
            yield slice(start, stop), group, rows[start:stop] - self.groups.starts[group]
