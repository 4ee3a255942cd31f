"""Compact logits: coefficients in a basis of the teacher's own, each with the bits that it needs.

The K logits of a classifier are a linear image of its features, and few directions carry most of
their variance. Principal directions of a sample of rows (Pearson 1901; transform coding as in Goyal
2001, "Theoretical foundations of transform coding", section 2) therefore hold in a few bits what
makes all K logits again, so that temperature, loss and ensemble stay choices of the reader. Rows
are tensors here; files are for other modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kd_ray.transfer_set.divergence import divergence

FEWEST_CLASSES: Final = 32
"""With fewer, index, view and label outweigh what is saved."""

CHUNK_ROWS = 1024
NAMES = ("mean", "directions", "spread", "steps", "bits")

Bytes = npt.NDArray[np.uint8]


def _places(bits: int, like: Tensor) -> Tensor:
    """Places of bits, the highest first."""
    return torch.arange(bits - 1, -1, -1, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class MemberBasis:
    """What codes one teacher's logits.

    A row's code is a byte of its gain, by which rows far out are scaled down, and the levels of its
    coefficients.

    Attributes:
        mean: `(K,)` float32 of the sample.
        directions: `(r, K)` float32, orthonormal.
        spread: `(r,)` float32, of the sample's coefficients.
        steps: `(r,)` float32, width of a level.
        bits: `(r,)` int64 from 1 to 15, not ascending; 2^bits levels about 0.
    """

    mean: Tensor
    directions: Tensor
    spread: Tensor
    steps: Tensor
    bits: Tensor

    @cached_property
    def groups(self) -> list[tuple[int, int, int]]:
        """Directions of the same number of bits: first, last + 1, bits."""
        edges = np.flatnonzero(np.diff(self.bits.cpu().numpy(), prepend=-1, append=-1)).tolist()
        return [(a, b, int(self.bits[a])) for a, b in pairwise(edges)]

    @property
    def row_bytes(self) -> int:
        """Bytes that a row of logits takes."""
        return 1 - int(self.bits.sum()) // -8

    def coefficients(self, logits: Tensor) -> Tensor:
        """`(n, K)` -> `(n, r)`."""
        return (logits.to(self.mean) - self.mean) @ self.directions.T

    def gain(self, coefficients: Tensor) -> Tensor:
        """`(n, 1)` eighths of a doubling, whole: how much farther out than the sample a row is."""
        square = (coefficients / self.spread).square().mean(dim=1, keepdim=True)
        return (4 * square.clamp(min=1).log2()).round().clamp(max=255)

    def levels(self, coefficients: Tensor, gain: Tensor) -> Tensor:
        """The level of each coefficient, `(n, r)` float32 whole numbers from 0."""
        half = torch.exp2(self.bits - 1.0)
        found = (coefficients / (self.steps * torch.exp2(gain / 8))).floor() + half
        return found.clamp(min=0).minimum(2 * half - 1)

    def middles(self, levels: Tensor, gain: Tensor) -> Tensor:
        """The coefficient that each level stands for, `(n, r)`."""
        return (levels - torch.exp2(self.bits - 1.0) + 0.5) * self.steps * torch.exp2(gain / 8)

    def packed(self, levels: Tensor, gain: Tensor) -> Tensor:
        """The code `(n, row_bytes)`; the highest bit of a level first, one level after another."""
        whole, parts = levels.to(torch.int16), []
        for first, last, bits in self.groups:
            split = whole[:, first:last, None] >> _places(bits, whole)
            parts.append(split.bitwise_and_(1).to(torch.uint8).flatten(1))
        spare = 8 * (self.row_bytes - 1) - int(self.bits.sum())
        split = functional.pad(torch.cat(parts, dim=1), (0, spare))
        split = split.reshape(len(whole), self.row_bytes - 1, 8)
        packed = (split << _places(8, split)).sum(dim=2, dtype=torch.uint8)
        return torch.cat([gain.to(torch.uint8), packed], dim=1)

    def unpacked(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Levels `(n, r)` and gain `(n, 1)` of codes `(n, row_bytes)`."""
        split = (codes[:, 1:, None] >> _places(8, codes)).bitwise_and_(1).flatten(1)
        parts, at = [], 0
        for first, last, bits in self.groups:
            stop = at + (last - first) * bits
            digits = split[:, at:stop].reshape(len(codes), last - first, bits).to(torch.int16)
            parts.append((digits << _places(bits, digits)).sum(dim=2, dtype=torch.int16))
            at = stop
        return torch.cat(parts, dim=1).to(self.mean), codes[:, :1].to(self.mean)

    def encode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(n, K)` as codes `(n, row_bytes)`, and the logits that these stand for."""
        coefficients = self.coefficients(logits)
        gain = self.gain(coefficients)
        levels = self.levels(coefficients, gain)
        return self.packed(levels, gain), self.logits(levels, gain)

    def logits(self, levels: Tensor, gain: Tensor) -> Tensor:
        """Levels `(n, r)` and gain -> logits `(n, K)` float32."""
        return torch.addmm(self.mean, self.middles(levels, gain), self.directions)

    def is_code_of(self, rebuilt: Tensor, logits: Tensor) -> Tensor:
        """Rows `(n,)` whose rebuilt logits are those of other, exact ones' codes, both `(n, K)`.

        That is, each coefficient lies in the level of the exact one, but for what another order of
        float32 sums may do: 2^-14 of the largest logit, or the next gain.
        """
        exact, there = self.coefficients(logits), self.coefficients(rebuilt)
        gain = self.gain(exact)
        width = self.steps * torch.exp2(gain / 8)
        most = torch.exp2(self.bits - 1.0) * width
        largest = logits.abs().amax(dim=1, keepdim=True).clamp(min=1.0)
        slack = 2**-14 * largest * logits.shape[1] ** 0.5 + (2**0.125 - 1) * width
        wrong: Tensor = (there - exact.clamp(-most, most)).abs() > width / 2 + slack
        return ~wrong.any(dim=1)


@dataclass(frozen=True)
class Basis:
    """What codes the logits of M teachers; the code of a row is those of the members in order."""

    members: Sequence[MemberBasis]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's code."""
        return sum(member.row_bytes for member in self.members)

    def to(self, device: torch.device) -> "Basis":
        """The same on a device."""
        moved = {name: tensor.to(device) for name, tensor in as_tensors(self).items()}
        return from_tensors(moved)

    def encode(self, logits: Tensor) -> tuple[Bytes, Tensor]:
        """Logits `(n, M, K)` as codes `(n, row_bytes)`, and what that costs.

        Returns:
            The codes, and divergences `(n, M, 3)` float64 on the CPU, see `divergence`.
        """
        codes, costs = [], []
        for rows in torch.split(logits, CHUNK_ROWS):
            some = rows.to(self.members[0].mean)
            pairs = [member.encode(some[:, at]) for at, member in enumerate(self.members)]
            codes.append(torch.cat([code for code, _ in pairs], dim=1).cpu())
            rebuilt = torch.stack([logits for _, logits in pairs], dim=1)
            costs.append(divergence(some, rebuilt).cpu())
        return torch.cat(codes).numpy(), torch.cat(costs)

    def decode(self, codes: Bytes) -> Tensor:
        """Codes `(n, row_bytes)` -> all logits `(n, M, K)` float32 on the basis' device."""
        whole, logits, at = torch.from_numpy(codes).to(self.members[0].mean.device), [], 0
        for member in self.members:
            part = whole[:, at : at + member.row_bytes]
            logits.append(member.logits(*member.unpacked(part)))
            at += member.row_bytes
        return torch.stack(logits, dim=1)

    def is_code_of(self, rebuilt: Tensor, logits: Tensor) -> Tensor:
        """Rows `(n,)` of `(n, M, K)`, see `MemberBasis.is_code_of`."""
        pairs = enumerate(self.members)
        right = [member.is_code_of(rebuilt[:, at], logits[:, at]) for at, member in pairs]
        return torch.stack(right).all(dim=0)


def as_tensors(basis: Basis) -> dict[str, Tensor]:
    """The basis by names, on the CPU, as it is stored."""
    return {
        f"{number}.{name}": getattr(member, name).cpu().contiguous()
        for number, member in enumerate(basis.members)
        for name in NAMES
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Basis:
    """What `as_tensors` made tensors of."""
    count = len(tensors) // len(NAMES)
    return Basis(
        [MemberBasis(*(tensors[f"{number}.{name}"] for name in NAMES)) for number in range(count)]
    )
