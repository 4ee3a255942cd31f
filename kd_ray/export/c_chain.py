"""Products of a student whose sums become codes at once, without a place in memory for the sums.

A sum of floats that is only compared is added up in float32, in any order: by how much that may be
wrong is known, and where a limit is nearer than that, C adds up again in double precision. So codes
are those that the reference has.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.export.net import Affine, Array, MaxPool, Operation, Pixels, Product, Relu, Threshold

SEARCHED = 4
"""Codes of more bits are searched among their thresholds, those of fewer are counted."""
ROUNDING = 2.0**-24
"""The largest relative error of one operation of float32."""


@dataclass(frozen=True)
class Chain:
    """A product, and what is done with its sums up to the codes.

    Attributes:
        product: its number.
        inside: numbers of the steps that have no value of their own, the product's among them.
        pool: over the sums of floats, or None.
        limits: `(2^k - 1, O)`: the code is how many of them a sum reaches; float32 or int32.
        flips: `(O,)` uint8: bits of the code that are turned round; all 0 of floats.
        weights: `(O, I, h, w)`, of floats negated where the channel is turned.
        bound: `(O,)` float32: how wrong a sum of floats may be; none of integers.
    """

    product: int
    inside: tuple[int, ...]
    pool: MaxPool | None
    limits: Array
    flips: Array
    weights: Array
    bound: Array


def chains_of(steps: Sequence[Operation]) -> dict[int, Chain]:
    """Number of a threshold -> what comes before it and can be done with it at once."""
    uses = Counter(source for step in steps for source in step.sources)
    found: dict[int, Chain] = {}
    for number, step in enumerate(steps):
        if not isinstance(step, Threshold) or step.bits > SEARCHED:
            continue
        at, inside = step.sources[0], []
        while uses[at] == 1 and isinstance(steps[at], Affine | Relu | MaxPool | Product):
            inside.append(at)
            if isinstance(steps[at], Product):
                break
            at = steps[at].sources[0]
        product, between = steps[at], [steps[each] for each in inside[:-1]]
        if not inside or not isinstance(product, Product) or inside[-1] != at:
            continue
        if product.is_integer and not between:
            found[number] = _of_integers(at, product, step)
        elif _is_first(product, between, steps):
            first = steps[product.sources[0]]
            assert isinstance(first, Pixels)
            found[number] = _of_floats(tuple(inside), product, between[::-1], step, first)
    return found


def _of_integers(number: int, product: Product, step: Threshold) -> Chain:
    zeros = product.zero * product.integers.reshape(len(product.weights), -1).sum(1)
    turned = np.broadcast_to(step.turned, len(zeros))[:, None]
    thresholds = step.thresholds.astype(np.int64)
    # Minus a sum reaches t where the sum does not reach 1 - t.
    limits = np.where(turned, 1 - thresholds, thresholds) + zeros[:, None]
    flips = np.where(turned[:, 0], step.thresholds.shape[1], 0).astype(np.uint8)
    none = np.zeros(0, np.float32)
    return Chain(number, (number,), None, limits.T.astype(np.int32), flips, product.integers, none)


def _is_first(product: Product, between: list[Operation], steps: Sequence[Operation]) -> bool:
    """Whether it is a plain convolution of the picture in float, pooled in whole windows or not."""
    pools = [each for each in between if isinstance(each, MaxPool)]
    whole = all(each.kernel == each.stride and each.padding == (0, 0) for each in pools)
    plain = product.bits == 32 and product.groups == 1 and product.dilation == (1, 1)
    picture = isinstance(steps[product.sources[0]], Pixels) and product.weights.ndim == 4
    return plain and picture and whole and len(pools) <= 1


def _of_floats(
    inside: tuple[int, ...],
    product: Product,
    between: list[Operation],
    step: Threshold,
    pixels: Pixels,
) -> Chain:
    scales = [np.sign(each.scale) for each in between if isinstance(each, Affine)]
    sign = np.prod([np.ones(len(product.weights)), *scales], axis=0)
    sign = np.where(sign < 0, -1, 1).astype(np.float32)
    limits = _least(step.thresholds[0], between, sign)
    weights = product.weights * sign[:, None, None, None]
    ends = np.array([[0], [255]], np.float32) * pixels.scale + pixels.offset
    largest = np.abs(ends).max(0).astype(np.float64)[None, :, None, None]
    sizes = (np.abs(product.weights.astype(np.float64)) * largest).sum((1, 2, 3))
    # Higham 2002, section 3.1: n products added up in any order; three more for what is left.
    operations = ROUNDING * (product.weights[0].size + 3)
    bound = 1.001 * operations / (1 - operations) * sizes + 1e-30
    pool = next((each for each in between if isinstance(each, MaxPool)), None)
    flips = np.zeros(len(weights), np.uint8)
    return Chain(inside[-1], inside, pool, limits, flips, weights, bound.astype(np.float32))


def _least(thresholds: Array, between: list[Operation], sign: Array) -> Array:
    """`(L, O)` float32: the least sums, times their sign, that come to reach thresholds `(L,)`.

    What is between rises with them, rounded as it is, so the range of all floats can be halved.
    """
    largest = 0x7F7FFFFF  # of the bits of finite floats, which are ordered as integers are
    below = np.full((len(thresholds), len(sign)), -largest - 1, np.int64)
    reached = np.full_like(below, largest + 1)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        floats = np.abs(middle).astype(np.int32).view(np.float32)
        values = np.where(middle < 0, -floats, floats) * sign
        with np.errstate(over="ignore"):
            for each in between:
                if isinstance(each, Affine):
                    values = values * each.scale.astype(np.float32)
                    values = values + each.bias.astype(np.float32)
                elif isinstance(each, Relu):
                    values = np.maximum(values, np.float32(0))
        is_reached = values >= thresholds[:, None]
        reached = np.where(is_reached, middle, reached)
        below = np.where(is_reached, below, middle)
    floats = np.abs(reached).astype(np.int32).view(np.float32)
    least: Array = np.where(reached < 0, -floats, floats)
    return np.where(reached == -largest, np.float32(-np.inf), least)
