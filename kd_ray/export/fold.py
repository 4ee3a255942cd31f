"""Steps made fewer without another result: scales joined, thresholds on integer sums."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kd_ray.export.net import (
    Affine,
    Array,
    Flatten,
    MaxPool,
    Operation,
    Product,
    Relu,
    Threshold,
)


def folded(steps: Sequence[Operation]) -> list[Operation]:
    """The same student with its scales joined, and thresholds on sums wherever there are sums."""
    made: list[Operation] = []
    numbers: list[int] = []  # old number -> new one
    for step in steps:
        own = replace(step, sources=tuple(numbers[source] for source in step.sources))
        numbers.append(_place(own, made))
    return made


def _place(step: Operation, made: list[Operation]) -> int:
    """Adds a step to those that are made, in its simplest form; its number."""
    source = made[step.sources[0]] if step.sources else None
    if isinstance(step, Affine) and isinstance(source, Affine):
        step = Affine(
            step.name,
            source.sources,
            source.scale * step.scale,
            source.bias * step.scale + step.bias,
        )
    elif isinstance(step, Threshold) and (parts := _on_sums(step, made)):
        for part in parts:
            made.append(replace(part, sources=part.sources or (len(made) - 1,)))
        return len(made) - 1
    made.append(step)
    return len(made) - 1


def _on_sums(step: Threshold, made: Sequence[Operation]) -> list[Operation]:
    """A threshold of floats as one of the sums that they come from, and pooling of codes behind it.

    Max-pooling and flattening keep the order of values, so they may come after; so does ReLU, which
    leaves only thresholds above 0 with a meaning. Nothing where the floats come from elsewhere.
    """
    thresholds, number = step.thresholds.astype(np.float64), step.sources[0]
    later: list[Operation] = []
    while isinstance(at := made[number], MaxPool | Flatten | Relu):
        if isinstance(at, Relu):
            thresholds = np.where(thresholds <= 0, -np.inf, thresholds)
        else:
            later.append(replace(at, sources=()))
        number = at.sources[0]
    product = made[at.sources[0]] if isinstance(at, Affine) else None
    flat = any(isinstance(each, Flatten) for each in later)
    if not (isinstance(at, Affine) and isinstance(product, Product) and product.is_integer) or (
        flat and product.weights.ndim == 2
    ):
        return []
    integers, turned = _integer_thresholds(thresholds, at, product.largest_sum)
    on_sums = Threshold(step.name, at.sources, step.bits, integers, turned)
    return [on_sums, *reversed(later)]


def _integer_thresholds(thresholds: Array, scale: Affine, bound: int) -> tuple[Array, Array]:
    """The least sum of each channel that reaches each threshold, and the channels that are turned.

    A negative factor turns the order, so there the sums are negated. Sums lie within `bound`: one
    beyond it is never reached.

    Returns:
        `(O, 2^k - 1)` int16 where that is enough, else int32; `(O,)` bool.
    """
    factor, bias = scale.scale[:, None], scale.bias[:, None]
    turned = scale.scale < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.ceil((thresholds - bias) / np.abs(factor))
    constant = np.where(bias >= thresholds, -np.inf, np.inf)  # where a factor of 0 leaves the bias
    least = np.where(factor == 0, constant, least)
    kind = np.int16 if bound < 2**15 - 1 else np.int32
    return np.clip(least, -bound, bound + 1).astype(kind), turned
