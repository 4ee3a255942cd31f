"""The basis of compact logits, fitted to a sample: principal directions, bits, widths of levels."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from kd_ray.transfer_set.compact import Basis, MemberBasis

SHARES: Final[Mapping[str, int]] = {"compact": 4, "compact-tenth": 10}
"""Of each stored type: which part of float16's bytes a row takes at most."""
SAMPLE_ROWS: Final = 4096
"""Rows that a basis is fitted to; it has no more directions."""

MOST_BITS = 12
ROUNDING = 2.0**-24
"""Squared relative error of float16: what is smaller needs no more bits."""
WIDTHS = (1.0, 1.25, 1.5, 2.0)
APART = 4
"""One row in so many of the sample says how wide the others' directions are."""


def fit_basis(sample: Tensor, dtype: str) -> Basis:
    """The basis that codes logits like those of a sample with the least squared error.

    Args:
        sample: logits `(S, M, K)`.
        dtype: a key of `SHARES`.
    """
    most_bits = 2 * sample.shape[2] // SHARES[dtype] * 8
    return Basis([_fitted(sample[:, member], most_bits) for member in range(sample.shape[1])])


def _fitted(sample: Tensor, most_bits: int) -> MemberBasis:
    apart = torch.arange(len(sample), device=sample.device) % APART == APART - 1
    mean, directions = _principal(sample[~apart].double() if len(sample) >= APART else sample)
    mean, directions = mean.float(), directions.float()
    # Variances are of rows that the directions were not fitted to, along which they are larger.
    rows = (sample[apart] if len(sample) >= APART else sample).float() - mean
    coefficients = rows @ directions.T
    bits = torch.full((len(directions),), MOST_BITS, device=sample.device)
    spread = coefficients.square().mean(dim=0).sqrt().clamp(min=1e-30)
    whole = MemberBasis(mean, directions, spread, spread, bits)
    scaled = coefficients / torch.exp2(whole.gain(coefficients) / 8)
    variances = scaled.double().square().mean(dim=0)
    order = variances.argsort(descending=True, stable=True)
    square = float(sample.double().square().mean())
    bits = _allotted(variances[order].tolist(), most_bits - 8, square).to(sample.device)
    order, bits = order[bits > 0], bits[bits > 0]
    directions, spread = directions[order].contiguous(), spread[order]
    coefficients = coefficients[:, order]
    # Levels for a Gaussian, or for longer tails: what leaves the least error.
    narrow = (2.6 + 0.67 * bits) * torch.exp2(-bits.double()) * variances[order].sqrt()
    steps, errors = [], []
    for width in WIDTHS:
        step = (narrow * width).float().clamp(min=1e-30)
        tried = MemberBasis(mean, directions, spread, step, bits)
        gain = tried.gain(coefficients)
        error = tried.middles(tried.levels(coefficients, gain), gain) - coefficients
        steps.append(step)
        errors.append(error.square().sum(dim=0))
    best = torch.stack(errors).argmin(dim=0, keepdim=True)
    return MemberBasis(mean, directions, spread, torch.stack(steps).gather(0, best)[0], bits)


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(K,)` and principal directions `(r, K)`, by descending variance."""
    mean = rows.mean(dim=0)
    rows = rows - mean
    count, classes = rows.shape
    # The smaller of the two products has the same variances.
    product = rows.T @ rows if classes <= count else rows @ rows.T
    squares, vectors = torch.linalg.eigh(product)
    kept = squares >= squares.max() * 1e-12
    squares, vectors = squares[kept].flip(0), vectors[:, kept].flip(1)
    if classes > count:
        vectors = rows.T @ vectors / squares.clamp(min=1e-30).sqrt()
    return mean, vectors.T


def _allotted(variances: Sequence[float], most: int, square: float) -> Tensor:
    """How many bits each direction gets: each goes where it takes away most, `(r,)` int64."""
    bits = [0] * len(variances)
    waiting = [(-variance, number) for number, variance in enumerate(variances)]
    for _ in range(most):
        if not waiting or -waiting[0][0] < ROUNDING * square:
            break
        left, number = heapq.heappop(waiting)
        bits[number] += 1
        if bits[number] < MOST_BITS:
            # The first bit leaves 0.36 of a Gaussian's variance, and each further one less.
            share = 0.36 if bits[number] == 1 else 0.3
            heapq.heappush(waiting, (left * share, number))
    return torch.tensor([max(bits[0], 1), *bits[1:]])
