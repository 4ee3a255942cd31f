"""Thresholds as one multiplication and one rounding, which is what ONNX's integer layers do.

`QLinearConv` gives `round_half_even(float32(sum + bias) * scale)` for each channel. Thresholds that
come of a uniform grid leave room for a bias and a scale that reach each level at the very same sum.
They are searched for, and held against the thresholds in the arithmetic of the machine that runs
them; where there are none, so is the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kd_ray.export.net import Array

MOST_BIASES = 4096
"""Biases of a channel that are tried."""
LARGEST = 2**31 - 1
"""Of the integers that sums and biases are."""
NEAR = 4
"""Floats next to one that count as near."""


@dataclass(frozen=True)
class Rescale:
    """What takes sums to codes, one of each for a channel.

    Attributes:
        scale: `(O,)` float32.
        bias: `(O,)`: int32 that is added before, or float32 that is added after the scaling.
    """

    scale: Array
    bias: Array

    def codes(self, sums: Array) -> Array:
        """The codes of sums `(..., O)` as a machine finds them, not yet limited."""
        if self.bias.dtype == np.int32:
            return np.rint((sums + self.bias).astype(np.float32) * self.scale)
        return np.rint(sums.astype(np.float32) * self.scale + self.bias)


def integer_rescale(thresholds: Array, factors: Array, bound: int) -> Rescale | None:
    """Bias before, scale after: of sums that are `factors` times as large as the thresholds' own.

    Args:
        thresholds: `(O, L)` integers, ascending.
        factors: `(O,)`, positive; a bias has a resolution of 1 / factor of a sum.
        bound: of the absolute sums; one above is a threshold that is never reached.

    Returns:
        None where a channel has none.
    """
    most = LARGEST - int(factors.max()) * bound
    if most < 0:
        return None

    def made(bias: Array, period: Array) -> Rescale:
        bias = np.clip(bias, -most, most)
        return Rescale((1 / period).astype(np.float32), bias.astype(np.int32))

    return _fitted(thresholds.astype(np.int64), factors, bound, made, factors)


def float_rescale(thresholds: Array, bound: int) -> Rescale | None:
    """Scale before, bias after, both float32; arguments as above."""
    finer = 64
    ones = np.ones(len(thresholds), int)

    def made(bias: Array, period: Array) -> Rescale:
        scale = (finer / period).astype(np.float32)
        return Rescale(scale, (bias / period).astype(np.float32))

    return _fitted(thresholds.astype(np.int64), finer * ones, bound, made, ones)


def _fitted(
    thresholds: Array,
    finer: Array,
    bound: int,
    made: Callable[[Array, Array], Rescale],
    factors: Array,
) -> Rescale | None:
    """The widest fit of each channel that holds when its machine computes it."""
    scales, biases, bound = [], [], max(bound, 1)  # sums of weights that are all 0 are 0
    for own, resolution, factor in zip(thresholds, finer, factors, strict=True):
        bias, period = _candidates(own, int(resolution), bound)
        tried = made(bias, period)
        levels = np.arange(1, len(own) + 1)[:, None]
        least, most = np.clip(own, -bound, bound), np.clip(own - 1, -bound, bound)
        reached = tried.codes(factor * least[:, None]) >= levels
        missed = tried.codes(factor * most[:, None]) < levels
        holds = (reached | (own > bound)[:, None]) & (missed | (own <= -bound)[:, None])
        if not holds.all(0).any():
            return None
        best = int(np.argmax(holds.all(0)))  # the candidates come with the widest first
        scales.append(tried.scale[best])
        biases.append(tried.bias[best])
    return Rescale(np.array(scales), np.array(biases))


def _candidates(own: Array, finer: int, bound: int) -> tuple[Array, Array]:
    """Biases and periods (sums from one level to the next) that fit a channel, widest first.

    With sums, biases and periods in units of 1 / `finer` of a sum, level j is reached at its
    threshold t if `finer * t + bias >= (j - 1/2) * period`, and is not at `t - 1`. For each bias
    that leaves an interval of periods, whose middle is taken.
    """
    half = np.arange(len(own)) + 0.5
    finite = np.flatnonzero((own > -bound) & (own <= bound))
    far = 4.0 * finer * bound
    if not len(finite):
        return np.array([far * int((own <= -bound).sum())]), np.array([far])
    first, last = finite[0], finite[-1]
    steps, apart = last - first, own[last] - own[first]
    low = far if not steps else finer * (apart - 1) / steps
    high = far if not steps else finer * (apart + 1) / steps
    start = low * half[first] - finer * own[first]
    stop = high * half[first] - finer * (own[first] - 1)
    bias = np.arange(np.floor(start), np.ceil(stop) + 1)
    if len(bias) > MOST_BIASES:
        bias = np.unique(np.rint(np.linspace(bias[0], bias[-1], MOST_BIASES)))
    is_reached, is_missed = own <= bound, own > -bound
    at = finer * np.maximum(own, -bound)[:, None] + bias
    before = finer * np.minimum(own - 1, bound)[:, None] + bias
    highest = (at / half[:, None])[is_reached].min(0)
    lowest = np.maximum((before / half[:, None])[is_missed].max(0), highest / 4)
    order = np.argsort(-(highest / np.maximum(lowest, 1e-9)), kind="stable")
    order = order[(highest > 0)[order] & (highest >= lowest)[order]]
    if not len(order):
        return np.array([0.0]), np.array([far])  # which will not hold
    return bias[order], ((lowest + highest) / 2)[order]


def uniform_grid(thresholds: Array) -> tuple[np.generic, np.generic] | None:
    """The scale and the zero point with which `QuantizeLinear` finds the codes of floats.

    Args:
        thresholds: `(L,)` float32, ascending: the least float that reaches each level.

    Returns:
        A float32 and a uint8; None where the thresholds are of no grid that has a code for 0.
    """
    levels = np.arange(1, len(thresholds) + 1)
    wide = thresholds.astype(np.float64)
    if len(wide) > 1:
        step = (wide[-1] - wide[0]) / (len(wide) - 1)
        zero = np.rint(0.5 - wide[0] / step)
    else:
        zero = float(wide[0] <= 0)
        step = wide[0] / (0.5 - zero)
    if not (step > 0 and 0 <= zero <= 255):
        return None
    scales = [np.float32(step)]
    for _ in range(NEAR):
        scales += [np.nextafter(scales[-1], np.float32(np.inf))]
        scales = [np.nextafter(scales[0], np.float32(0)), *scales]
    tried = np.array(scales)[:, None]
    before = np.nextafter(thresholds, np.float32(-np.inf))
    missed = (np.rint(thresholds / tried) + zero < levels).sum(1)
    missed += (np.rint(before / tried) + zero >= levels).sum(1)
    best = tried[np.argsort(missed, kind="stable")[0]]
    apart = np.abs(wide - (levels - 0.5 - zero) * best)
    if not (apart <= NEAR * np.spacing(np.abs(thresholds).max())).all():
        return None
    return best[0], np.uint8(zero)
