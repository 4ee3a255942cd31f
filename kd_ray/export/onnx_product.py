"""Products as nodes of an ONNX graph.

Weights of few bits are stored as codes and become bytes when a model is loaded, by nodes that take
constants alone. A product whose sums meet thresholds is one `QLinearConv`; one whose sums leave as
floats is a `MatMulInteger` of windows or, of few channels, a float convolution of integers, which
is exact as long as float32 holds them.
"""

from typing import Any

import numpy as np

from kd_ray.export.net import Array, Product, Threshold
from kd_ray.export.onnx_graph import Graph, beside
from kd_ray.export.rescale import integer_rescale

FEW_CHANNELS = 16
"""Up to these, a float convolution is faster than the windows of an integer product."""
PAIR = 2**15 - 1
"""Without VNNI, x86 adds two products of 8 bits in 16, where larger ones would be cut off."""


def float_product(graph: Graph, product: Product, x: str, scale: Array, bias: Array) -> str:
    """A product of floats, `sum * scale + bias`; the scale is in the weights.

    Args:
        graph: where it is written.
        product: of float inputs.
        x: its input.
        scale: `(O,)`.
        bias: `(O,)`.
    """
    factors = beside(scale, product.weights.ndim)
    if product.bits < 32:
        weights: str | Array = graph.add("Mul", _integers(graph, product, np.float32), factors)
    else:
        weights = product.weights * factors
    return _floats(graph, product, x, weights, bias)


def integer_product(
    graph: Graph,
    product: Product,
    x: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    scale: Array,
    bias: Array,
) -> str:
    """The exact sums of integers as floats, then `sum * scale + bias`.

    Arguments as above, and the `shapes` of inputs and sums for one picture.
    """
    rows = product.weights.ndim == 2
    wide = rows or (product.groups == 1 and product.weights.shape[1] > FEW_CHANNELS)
    if not wide or not _factors(product).all():
        floats = graph.cast(x, np.float32)
        floats = graph.scaled(floats, np.ones(1), np.array([-product.zero]), 1)
        sums = _floats(graph, product, floats, _integers(graph, product, np.float32), np.zeros(1))
        return graph.scaled(sums, scale, bias, product.weights.ndim - 1)
    x, weights = _bytes(graph, product, x, np.ones(1, int))
    if rows:
        weights = graph.add("Transpose", weights, perm=[1, 0])
    else:
        x = _windows(graph, product, x, *shapes)
        weights = graph.add("Transpose", weights, perm=[2, 3, 1, 0])
        weights = graph.add("Reshape", weights, np.array([-1, len(product.weights)]))
    sums = graph.add("MatMulInteger", x, weights, np.uint8(product.zero), np.int8(0))
    scaled = graph.scaled(graph.cast(sums, np.float32), scale, bias, 1)
    return scaled if rows else graph.add("Transpose", scaled, perm=[0, 3, 1, 2])


def rescaled_product(graph: Graph, product: Product, x: str, step: Threshold) -> str | None:
    """The codes of the sums of a product as one `QLinearConv`; None where it has no such scales."""
    factors = _factors(product)
    if not factors.all():
        return None
    rescale = integer_rescale(step.thresholds, factors, product.largest_sum)
    if rescale is None:
        return None
    x, weights = _bytes(graph, product, x, np.where(step.turned, -factors, factors))
    rows, pixel = product.weights.ndim == 2, np.array([2, 3])
    if rows:
        x, weights = (graph.add("Unsqueeze", each, pixel) for each in (x, weights))
    one, zero, none = np.float32(1), np.uint8(product.zero), np.int8(0)
    inputs = (x, one, zero, weights, rescale.scale, none, one, np.uint8(0), rescale.bias)
    codes = graph.add("QLinearConv", *inputs, **_window(product))
    codes = graph.limited(codes, 2**step.bits - 1)
    return graph.add("Flatten", codes) if rows else codes


def _floats(graph: Graph, product: Product, x: str, weights: str | Array, bias: Array) -> str:
    """The product of floats."""
    biases = [bias.astype(np.float32)] if bias.any() else []
    if product.weights.ndim == 2:
        return graph.add("Gemm", x, weights, *biases, transB=1)
    return graph.add("Conv", x, weights, *biases, **_window(product))


def _integers(graph: Graph, product: Product, kind: type[np.generic], factor: int = 1) -> str:
    """The weights as integers, each `factor` times as large."""
    codes = graph.cast(graph.codes(product.weights, product.bits), kind)
    if (scale := factor * product.factor) != 1:
        codes = graph.add("Mul", codes, np.array(scale, kind))
    if product.shift:
        codes = graph.add("Add", codes, np.array(factor * product.shift, kind))
    return codes


def _bytes(graph: Graph, product: Product, x: str, factors: Array) -> tuple[str, str]:
    """The input and the weights as signed bytes, each channel's multiplied by its factor.

    Where pairs of products would be cut off, the input is there twice, and each weight in halves.
    """
    same = bool((factors == factors[0]).all())
    weights = _integers(graph, product, np.int32, int(factors[0]) if same else 1)
    if not same:
        each = factors.reshape(-1, *[1] * (product.weights.ndim - 1)).astype(np.int8)
        weights = graph.add("Mul", weights, graph.cast(each, np.int32))
    if 2 * _inputs(product) * int((_largest(product) * np.abs(factors)).max()) > PAIR:
        half = graph.add("Div", weights, np.int32(2))
        weights = graph.add("Concat", half, graph.add("Sub", weights, half), axis=1)
        x = graph.add("Concat", x, x, axis=1)
    return x, graph.cast(weights, np.int8)


def _windows(
    graph: Graph, product: Product, x: str, given: tuple[int, ...], made: tuple[int, ...]
) -> str:
    """`(N, H', W', h * w * C)` of codes `(N, C, H, W)`: what each place of a filter sees.

    Gathered pixel by pixel: the channels of one lie side by side.
    """
    x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    (top, left), kernel = product.padding, product.weights.shape[2:]
    if top or left:
        border = np.array([0, top, left, 0, 0, top, left, 0])
        x = graph.add("Pad", x, border, np.uint8(product.zero))
    # Of each pixel of the output and each of a filter: rows of pixels before it, then pixels.
    width = given[2] + 2 * left
    rows, columns = (
        np.arange(made[axis + 1])[:, None] * product.stride[axis]
        + np.arange(kernel[axis]) * product.dilation[axis]
        for axis in (0, 1)
    )
    places = graph.add("Add", width * rows[:, None, :, None], columns[None, :, None, :])
    pixels = graph.add("Reshape", x, np.array([0, (given[1] + 2 * top) * width, -1]))
    seen = graph.add("Gather", pixels, places, axis=1)
    return graph.add("Reshape", seen, np.array([0, *made[1:], -1]))


def _largest(product: Product) -> Array:
    """The largest absolute weight of each channel, `(O,)`, at least 1."""
    integers = np.abs(product.integers).reshape(len(product.weights), -1)
    return np.asarray(np.maximum(integers.max(1), 1))


def _inputs(product: Product) -> int:
    """The largest code of its inputs."""
    return int(2**product.input_bits - 1)


def _factors(product: Product) -> Array:
    """The most by which the weights of each channel may be multiplied and remain signed bytes.

    The larger they are, the finer is the bias that `QLinearConv` adds to their sums. It is 0 where
    weights are no bytes, and 1 where they are, but in halves, which groups of channels cannot be.
    """
    largest = _largest(product)
    paired = np.minimum(127 // largest, PAIR // (2 * _inputs(product) * largest))
    return np.asarray(np.maximum(paired, (largest <= 127) & (product.groups == 1)))


def _window(product: Product) -> dict[str, Any]:
    if product.weights.ndim == 2:
        return {}
    return {
        "kernel_shape": product.weights.shape[2:],
        "strides": product.stride,
        "pads": product.padding * 2,
        "dilations": product.dilation,
        "group": product.groups,
    }
