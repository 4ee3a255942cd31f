"""A student's steps as an ONNX model, of standard operators only.

Products are in `onnx_product`; they are written by what scales their sums or compares them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_ray.export.net import (
    Add,
    Affine,
    Array,
    Flatten,
    Level,
    MaxPool,
    MeanPool,
    Operation,
    PixelCodes,
    Pixels,
    Product,
    Relu,
    Shortcut,
    Threshold,
    shapes_of,
)
from kd_ray.export.onnx_graph import INPUT, Graph
from kd_ray.export.onnx_product import float_product, integer_product, rescaled_product
from kd_ray.export.rescale import float_rescale, uniform_grid

ONE, NONE = np.float32(1), np.uint8(0)


class Model:
    """The nodes of a student, step by step.

    Attributes:
        steps: of the student.
        shapes: of their values, for one picture.
        graph: what is written.
        used: numbers of the steps whose values are taken; of the picture, codes may be enough.
        at: number of a step -> name of its value; products have none.
    """

    def __init__(self, steps: Sequence[Operation]):
        self.steps, self.shapes = steps, shapes_of(steps)
        self.graph, self.at = Graph(), dict[int, str]()
        self.used = {source for step in steps for source in step.sources} | {len(steps) - 1}

    def write(self) -> None:
        """Writes all steps."""
        for number, step in enumerate(self.steps):
            if number in self.used and not isinstance(step, Product):
                self.at[number] = WRITERS[type(step)](self, step)

    def value(self, step: Operation) -> str:
        """The name of what a step takes."""
        return self.at[step.sources[0]]

    def product(self, step: Operation) -> Product | None:
        """The product whose sums a step takes, if it takes such."""
        source = self.steps[step.sources[0]]
        return source if isinstance(source, Product) else None

    def rank(self, step: Operation) -> int:
        """How many dimensions the value has, for one picture, that a step takes."""
        return len(self.shapes[step.sources[0]])


def write_onnx(file: Path, steps: Sequence[Operation], about: Mapping[str, Any]) -> None:
    """Writes a student; arguments as for `write_packed`."""
    model = Model(steps)
    model.write()
    start = steps[0]
    assert isinstance(start, Pixels)
    model.graph.write(file, start.shape, model.shapes[-1][-1], about)


def _pixels(model: Model, step: Pixels) -> str:
    floats = model.graph.cast(INPUT, np.float32)
    return model.graph.scaled(floats, step.scale, step.offset, len(step.shape))


def _pixel_codes(model: Model, step: PixelCodes) -> str:
    """Looked up, by 256 places for each channel."""
    starts = 256 * np.arange(len(step.codes), dtype=np.int32).reshape(-1, 1, 1)
    places = model.graph.add("Add", model.graph.cast(INPUT, np.int32), starts)
    return model.graph.add("Gather", step.codes.reshape(-1), places)


def _affine(model: Model, step: Affine) -> str:
    product = model.product(step)
    if product is None:
        return model.graph.scaled(model.value(step), step.scale, step.bias, model.rank(step))
    if product.is_integer:
        return _sums(model, step, product, step.scale, step.bias)
    return float_product(model.graph, product, model.value(product), step.scale, step.bias)


def _sums(model: Model, step: Operation, product: Product, scale: Array, bias: Array) -> str:
    """The integer sums that a step takes, as floats."""
    shapes = model.shapes[product.sources[0]], model.shapes[step.sources[0]]
    return integer_product(model.graph, product, model.value(product), shapes, scale, bias)


def _threshold(model: Model, step: Threshold) -> str:
    """By one operator where the thresholds are a grid's, or else by comparing."""
    product, graph, top = model.product(step), model.graph, 2**step.bits - 1
    if product is None:
        x, grid = model.value(step), uniform_grid(step.thresholds[0])
        if grid is None:
            return _compared(model, step, x)
        return graph.limited(graph.add("QuantizeLinear", x, *grid), top)
    if codes := rescaled_product(graph, product, model.value(product), step):
        return codes
    sign = np.where(step.turned, -1, 1)
    if rescale := float_rescale(step.thresholds, product.largest_sum):
        sums = _sums(model, step, product, sign * rescale.scale, rescale.bias)
        return graph.limited(graph.add("QuantizeLinear", sums, ONE, NONE), top)
    return _compared(model, step, _sums(model, step, product, sign, np.zeros(1)))


def _compared(model: Model, step: Threshold, x: str) -> str:
    """How many of its channel's thresholds each value reaches."""
    graph, beside = model.graph, [1] * (model.rank(step) - 1)
    each = step.thresholds.T.reshape(2**step.bits - 1, -1, *beside).astype(np.float32)
    x = graph.add("Unsqueeze", x, np.array([1]))
    reached = graph.cast(graph.add("GreaterOrEqual", x, each), np.float32)
    return graph.cast(graph.add("ReduceSum", reached, np.array([1]), keepdims=0), np.uint8)


def _level(model: Model, step: Level) -> str:
    floats = model.graph.cast(model.value(step), np.float32)
    return model.graph.scaled(floats, np.array([step.step]), np.array([step.low]), 1)


def _max_pool(model: Model, step: MaxPool) -> str:
    window = {"kernel_shape": step.kernel, "strides": step.stride, "pads": step.padding * 2}
    return model.graph.add("MaxPool", model.value(step), **window)


def _shortcut(model: Model, step: Shortcut) -> str:
    x, graph = model.value(step), model.graph
    if step.stride != (1, 1):
        ends = np.full(2, np.iinfo(np.int64).max)
        starts, axes = np.zeros(2, np.int64), np.array([2, 3])
        x = graph.add("Slice", x, starts, ends, axes, np.array(step.stride))
    if step.extra:
        x = graph.add("Pad", x, np.array([0, 0, 0, 0, 0, step.extra, 0, 0]))
    return x


def _plain(operator: str) -> Callable[[Model, Operation], str]:
    """A step that is one operator of its sources."""
    return lambda model, step: model.graph.add(operator, *(model.at[n] for n in step.sources))


WRITERS: Mapping[type[Operation], Callable[[Model, Any], str]] = {
    Pixels: _pixels,
    PixelCodes: _pixel_codes,
    Affine: _affine,
    Threshold: _threshold,
    Level: _level,
    MaxPool: _max_pool,
    MeanPool: _plain("GlobalAveragePool"),
    Relu: _plain("Relu"),
    Add: _plain("Add"),
    Flatten: _plain("Flatten"),
    Shortcut: _shortcut,
}
