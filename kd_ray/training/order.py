"""The order in which an epoch shows its rows, and how it is cut into batches.

Both are pure functions of seed, epoch and step, so a training that goes on has no state of them.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kd_ray.datasets.counter_random import hashed

GROUP, ROW = 200, 201
"""What a hash is for, apart from those of views and of selection."""


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of its parts.

    >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1) != derived_seed(1, "order", 1)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def batch_bounds(rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Cuts `rows` into the fewest batches of at most `batch_size`, alike to within one row.

    Every row is seen once an epoch and no batch is a small remainder.

    >>> batch_bounds(10, 4)
    [(0, 3), (3, 6), (6, 10)]
    """
    steps = math.ceil(rows / batch_size)
    return [(rows * i // steps, rows * (i + 1) // steps) for i in range(steps)]


def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """All row numbers as an epoch (1-based) shows them, `(rows,)` int64 on the CPU."""
    draw = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=draw)


def windows(
    starts: Sequence[int], groups: int, seed: int, epoch: int, first_row: int = 0
) -> Iterator[Tensor]:
    """All rows as an epoch (1-based) shows those that lie on a disk: window by window.

    Groups of rows are in a drawn order; those of a window are read together and their rows
    shuffled. Nothing but what is asked for is computed, so an epoch may begin at any row.

    Args:
        starts: the first row of each group in order, and behind them the number of rows.
        groups: in a window.
        seed: of the order.
        epoch: which has an order of its own.
        first_row: rows that are passed over.

    Yields:
        Numbers of the rows of a window, `(n,)` int64.
    """
    bounds = torch.as_tensor(starts)
    drawn = torch.argsort(hashed(seed, torch.arange(len(starts) - 1), epoch, GROUP), stable=True)
    for some in torch.split(drawn, groups):
        count = int((bounds[some + 1] - bounds[some]).sum())
        if count <= first_row:
            first_row -= count
            continue
        rows = torch.cat([torch.arange(*bounds[group : group + 2].tolist()) for group in some])
        yield rows[torch.argsort(hashed(seed, rows, epoch, ROW), stable=True)][first_row:]
        first_row = 0


def cut(parts: Iterable[Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Rows that come in parts, `(n,)` each, in pieces of the given sizes.

    >>> [piece.tolist() for piece in cut(torch.split(torch.arange(5), 3), [2, 2, 1])]
    [[0, 1], [2, 3], [4]]
    """
    rest, following = torch.empty(0, dtype=torch.int64), iter(parts)
    for size in sizes:
        while len(rest) < size:
            rest = torch.cat([rest, next(following)])
        yield rest[:size]
        rest = rest[size:]
