"""Rows that belong together: the frames of recordings, each of which says one word.

A class of such rows is a state: word w has states w * S to w * S + S - 1, in the order in which
they are spoken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Recordings:
    """Which recording each of N rows is a frame of.

    Attributes:
        numbers: `(N,)` int64, ascending: frames of a recording lie together, in time's order.
        states: S, the states of a word.
    """

    numbers: Tensor
    states: int

    @property
    def count(self) -> int:
        """The number R of recordings."""
        return len(self.lengths)

    @cached_property
    def lengths(self) -> Tensor:
        """Frames of each recording, `(R,)` int64."""
        _, lengths = torch.unique_consecutive(self.numbers, return_counts=True)
        assert isinstance(lengths, Tensor)
        return lengths

    @cached_property
    def starts(self) -> Tensor:
        """The first row of each recording, and behind them N: `(R + 1,)` int64."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def part(self, rows: Tensor) -> "Recordings":
        """What is left of them in some rows: `(N,)` bool, or `(n,)` int64, ascending."""
        return Recordings(self.numbers[rows.cpu()], self.states)

    def frames(self, chosen: Tensor) -> Tensor:
        """The rows of chosen recordings: from `(R,)` bool to `(N,)` bool."""
        return chosen.repeat_interleave(self.lengths)

    def words(self, labels: Tensor) -> Tensor:
        """The word of each recording, `(R,)` int64, by the states `(N,)` of its frames.

        `UNLABELLED` where a recording's first frame is.
        """
        return labels[self.starts[:-1]].div(self.states, rounding_mode="floor")


def equal_parts(frames: int, states: int) -> Tensor:
    """The states of a word's frames, `(frames,)` int64 from 0: equal parts, as nearly as can be.

    >>> equal_parts(7, 3).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    return torch.arange(frames) * states // frames


def joined(lengths: Sequence[int], states: int) -> Recordings:
    """Recordings of so many frames each, one behind the other."""
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    return Recordings(numbers, states)
