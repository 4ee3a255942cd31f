"""A student as other machines run it: a list of small steps on integer codes and floats.

A step takes what earlier steps made; step 0 is the picture. Values are `(N, ...)` of one of three
forms: floats, *codes* (the numbers of an activation's levels, from 0 on) and *sums* (exact integers
that a product of codes makes). Only a product adds up; everything that scales comes behind it, so
integers stay exact until they are compared with a threshold or leave as floats. Floats are float32,
multiplied and then added one by one; where many are added up, it is in double precision, so that
the order matters to the last bits of a double only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FLOAT, CODES, SUMS = "float", "codes", "sums"


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: of the student's layer that it comes from, dotted.
        sources: numbers of the steps whose values it takes.
    """

    kind: ClassVar[str]
    name: str
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Pixels(Operation):
    """A picture `(C, H, W)` uint8, normalized: `pixel * scale + offset`, `(C,)` each."""

    kind = "pixels"
    shape: tuple[int, int, int]
    scale: Array
    offset: Array


@dataclass(frozen=True)
class PixelCodes(Operation):
    """The picture as codes, looked up: what a quantizer makes of each normalized pixel.

    Attributes:
        shape: of the picture.
        bits: k.
        codes: `(C, 256)` uint8.
    """

    kind = "pixel_codes"
    shape: tuple[int, int, int]
    bits: int
    codes: Array


@dataclass(frozen=True)
class Product(Operation):
    """A convolution or a linear layer, without bias and scale.

    Attributes:
        weights: `(O, I, h, w)` or `(O, I)`: float32, or codes uint8.
        bits: of the weights' codes; 32 for floats.
        factor: a weight is the integer `factor * code + shift`.
        shift: see `factor`.
        input_bits: of the codes that it takes; 32 where it takes floats.
        zero: the code that stands for 0 in its input, with which a border is filled.
        stride: rows, columns; of a convolution, as all that follow.
        padding: rows, columns.
        dilation: rows, columns.
        groups: of channels.
    """

    kind = "product"
    weights: Array
    bits: int
    factor: int = 1
    shift: int = 0
    input_bits: int = 32
    zero: int = 0
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def is_integer(self) -> bool:
        """Whether it makes exact sums: of weights and inputs of few bits."""
        return self.bits < 32 and self.input_bits < 32

    @property
    def integers(self) -> Array:
        """The weights as integers, int64, or as floats where they are such."""
        if self.bits == 32:
            return self.weights
        return self.factor * self.weights.astype(np.int64) + self.shift

    @property
    def largest_sum(self) -> int:
        """A bound of the absolute sums."""
        highest = int(max(self.zero, 2**self.input_bits - 1 - self.zero))
        each = np.abs(self.integers).reshape(len(self.weights), -1).sum(1)
        return int(each.max()) * highest


@dataclass(frozen=True)
class Affine(Operation):
    """`x * scale + bias`, `(O,)` each, to floats; float64 until they are written."""

    kind = "affine"
    scale: Array
    bias: Array


@dataclass(frozen=True)
class Threshold(Operation):
    """Codes: how many of a channel's thresholds are reached.

    Attributes:
        bits: k.
        thresholds: `(O, 2^k - 1)` ascending, of sums as integers; `(1, 2^k - 1)` float32 of floats.
        turned: `(O,)` bool, channels whose sums are negated first; none of floats.
    """

    kind = "threshold"
    bits: int
    thresholds: Array
    turned: Array


@dataclass(frozen=True)
class Level(Operation):
    """Codes as the floats that they stand for: `code * step + low`."""

    kind = "level"
    step: float
    low: float


@dataclass(frozen=True)
class MaxPool(Operation):
    """The largest value of each window; the form stays."""

    kind = "max_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class MeanPool(Operation):
    """The mean of all pixels: `(N, C, H, W)` to `(N, C, 1, 1)`, floats."""

    kind = "mean_pool"


@dataclass(frozen=True)
class Relu(Operation):
    """Floats, those below 0 as 0."""

    kind = "relu"


@dataclass(frozen=True)
class Add(Operation):
    """The sum of two values, floats."""

    kind = "add"


@dataclass(frozen=True)
class Flatten(Operation):
    """`(N, C, H, W)` to `(N, C * H * W)`; the form stays."""

    kind = "flatten"


@dataclass(frozen=True)
class Shortcut(Operation):
    """Every `stride`-th pixel, with `extra` channels of zeros behind; floats."""

    kind = "shortcut"
    stride: tuple[int, int]
    extra: int


def forms_of(steps: Sequence[Operation]) -> list[str]:
    """The form of the value of each step: `FLOAT`, `CODES` or `SUMS`."""
    forms: list[str] = []
    for step in steps:
        if isinstance(step, Product):
            forms.append(SUMS if step.is_integer else FLOAT)
        elif isinstance(step, Threshold | PixelCodes):
            forms.append(CODES)
        elif isinstance(step, MaxPool | Flatten):
            forms.append(forms[step.sources[0]])
        else:
            forms.append(FLOAT)
    return forms


def shapes_of(steps: Sequence[Operation]) -> list[tuple[int, ...]]:
    """The shape of the value of each step, for one picture."""
    shapes: list[tuple[int, ...]] = []
    for step in steps:
        shapes.append(_shape(step, [shapes[source] for source in step.sources]))
    return shapes


def _shape(step: Operation, given: list[tuple[int, ...]]) -> tuple[int, ...]:
    match step:
        case Pixels() | PixelCodes():
            return step.shape
        case Product() if step.weights.ndim == 2:
            return (*given[0][:-1], len(step.weights))
        case Product():
            sides = zip(step.dilation, step.weights.shape[2:], strict=True)
            reach = [d * (k - 1) + 1 for d, k in sides]
            return (len(step.weights), *_windows(given[0], reach, step.stride, step.padding))
        case MaxPool():
            return (given[0][0], *_windows(given[0], step.kernel, step.stride, step.padding))
        case MeanPool():
            return (given[0][0], 1, 1)
        case Flatten():
            return (int(np.prod(given[0])),)
        case Shortcut():
            height, width = (-(-n // s) for n, s in zip(given[0][1:], step.stride, strict=True))
            return (given[0][0] + step.extra, height, width)
    return given[0]


def _windows(
    shape: Sequence[int], reach: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """How often a window fits, in rows and in columns."""
    sides = zip(shape[1:], reach, stride, padding, strict=True)
    return [(side + 2 * border - size) // step + 1 for side, size, step, border in sides]


def without_unused(steps: Sequence[Operation]) -> list[Operation]:
    """The steps that the last one depends on, in the same order."""
    used = {len(steps) - 1}
    for number in range(len(steps) - 1, -1, -1):
        if number in used:
            used.update(steps[number].sources)
    numbers = {old: new for new, old in enumerate(sorted(used | {0}))}
    return [
        replace(steps[old], sources=tuple(numbers[source] for source in steps[old].sources))
        for old in numbers
    ]


def layers_of(steps: Sequence[Operation]) -> list[dict[str, Any]]:
    """The products of a student, as records show them: name, bits, places, and what stayed float.

    A layer is float where its sums are: of float inputs, of float weights, or of both.
    """
    shapes = shapes_of(steps)
    return [
        {
            "name": step.name,
            "kind": "linear" if step.weights.ndim == 2 else "convolution",
            "weight_bits": step.bits,
            "input_bits": step.input_bits,
            "weights": step.weights.size,
            "output": list(shape),
            "is_float": not step.is_integer,
        }
        for step, shape in zip(steps, shapes, strict=True)
        if isinstance(step, Product)
    ]
