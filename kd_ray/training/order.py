"""The order in which an epoch shows its rows, and how it is cut into batches.

Both are pure functions of seed, epoch and step, so a training that goes on has no state of them.
"""

import hashlib
import math

import torch
from torch import Tensor


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
