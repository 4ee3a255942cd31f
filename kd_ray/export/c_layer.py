"""Products of an exported student in C: the block that each takes, and its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd_ray.export.c_chain import Chain
from kd_ray.export.c_tiles import even_fours, tiled
from kd_ray.export.net import Array, Product

COUNTED = 4
"""As many pairs of bits of a weight and an input can be counted; of more, bytes are multiplied."""
FILLED = 16
"""Channels of weights are filled up to a multiple of this, the most that one instruction takes."""
WORD = 4
"""Bytes of a word, whose bits are counted."""


@dataclass
class Layer:
    """A product as a block of C.

    Attributes:
        block: its name in `BLOCKS`.
        values: of the block's names.
        arrays: constant arrays by name.
        scratch: C type -> numbers that it needs for itself.
        conditions: name of an array -> the condition of C under which it is needed.
    """

    block: str
    values: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)
    scratch: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)


def layer_of(step: Product, given: tuple[int, int, int], chain: Chain | None) -> Layer:
    """The block of a product of a value `(C, H, W)`, with what follows its sums."""
    if step.weights.ndim == 2:
        given = (step.weights.shape[1], 1, 1)
    values = _values(step, given)
    padded = values["padded_height"] * values["padded_width"] * given[0]
    if chain is not None:
        values |= {"levels": len(chain.limits), "flip": ""}
    if chain is not None and len(chain.bound):
        return _first(chain, values, padded)
    weights = _by_tap(step.weights if step.bits == 32 else step.integers)
    outputs = len(weights)
    flat = weights.reshape(outputs, -1)
    if not step.is_integer:
        floats = flat.T if step.bits == 32 else flat.T.astype(np.int16)
        return Layer("float_product", values, {"weights": floats}, {"float": padded})
    integers = flat.astype(np.int64)
    largest = int(np.abs(integers).sum(1).max()) * (2**step.input_bits - 1)
    if step.groups > 1 or step.dilation[1] > 1 or largest >= 2**15 or np.abs(integers).max() > 127:
        layer = Layer("integer_product", values, {"weights": flat.astype(np.int16)})
        layer.scratch["int16_t"] = padded
    else:
        layer = _small(step, values, weights, padded)
    if chain is None:
        layer.arrays["zeros"] = (step.zero * integers.sum(1)).astype(np.int32)
        return layer
    layer.values["end"] = "codes"
    layer.arrays["limits"] = chain.limits
    if chain.flips.any():
        layer.arrays["flips"] = chain.flips
        layer.values["flip"] = "^ flips_$n[o]"
    return layer


def _values(step: Product, given: tuple[int, int, int]) -> dict[str, Any]:
    """What all blocks of products have."""
    weights = step.weights if step.weights.ndim == 4 else step.weights[:, :, None, None]
    outputs, inputs, height, width = weights.shape
    values: dict[str, Any] = window((height, width), step.stride, step.padding, step.dilation)
    values |= dict(zip(("in_channels", "in_height", "in_width"), given, strict=True))
    values |= {"bits": step.bits, "places": step.input_bits, "zero": step.zero, "end": "sums"}
    values |= {"factor": step.factor, "shift": step.shift, "taps": inputs * height * width}
    values |= {"groups": step.groups, "group_in": inputs, "group_out": outputs // step.groups}
    values["padded_height"] = given[1] + 2 * step.padding[0]
    values["padded_width"] = given[2] + 2 * step.padding[1]
    return values


def window(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> dict[str, int]:
    """The sides of a window, by row and by column."""
    names = ("kernel", "stride", "padding", "dilation")
    pairs = zip(names, (kernel, stride, padding, dilation), strict=True)
    return {f"{name}_{axis}": pair[axis] for name, pair in pairs for axis in (0, 1)}


def _by_tap(weights: Array) -> Array:
    """`(O, h, w, I)`, the channels of a pixel side by side."""
    four = weights if weights.ndim == 4 else weights[:, :, None, None]
    return four.transpose(0, 2, 3, 1)


def _filled(array: Array, axis: int, multiple: int) -> Array:
    """With zeros behind, up to a multiple of so many."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return np.pad(array, widths)


def _first(chain: Chain, values: dict[str, Any], padded: int) -> Layer:
    """A convolution of the picture in float whose sums become codes."""
    outputs = len(chain.weights)
    weights = _filled(_by_tap(chain.weights).reshape(outputs, -1).T, 1, FILLED)
    pool = chain.pool.kernel if chain.pool else (1, 1)
    values |= {"pool_0": pool[0], "pool_1": pool[1], "filled": weights.shape[1]}
    arrays = {"weights": weights, "limits": chain.limits, "bound": chain.bound}
    return Layer("float_codes", values, arrays, {"float": padded})


def _small(step: Product, values: dict[str, Any], weights: Array, padded: int) -> Layer:
    """A product of bytes whose sums fit into 16 bits; of few bits, they may be counted instead."""
    rows = weights.reshape(*weights.shape[:2], -1)
    fours, chunk = even_fours(-(-rows.shape[2] // 4))
    rows = _filled(rows, 2, 4 * fours)
    weights_by_four = rows.reshape(*rows.shape[:2], fours, 4).transpose(1, 2, 0, 3)
    weights_by_four = _filled(weights_by_four, 2, FILLED).astype(np.int8)
    values |= {"fours": fours, "filled": weights_by_four.shape[2], "chunk": chunk}
    values |= tiled(values)
    room = max(padded + 4, values.get("seen", 0))
    layer = Layer("byte_product", values, {"weights": weights_by_four}, {"uint8_t": room})
    pairs = step.bits * step.input_bits
    if pairs > COUNTED:
        return layer
    codes = _filled(_by_tap(step.weights), 3, 8)
    planes = np.stack([(codes >> place) & 1 for place in range(step.bits)])
    rows = np.packbits(planes, 4, "little").reshape(*planes.shape[:3], -1)
    words = _filled(rows, 3, WORD).view("<u4").astype(np.uint32)  # (bits, O, h, words of a row)
    masks = _filled(np.full(rows.shape[3], 255, np.uint8), 0, 2 * WORD).view("<u8")
    values |= {"packed": codes.shape[3] // 8, "words": words.shape[3], "pairs": pairs}
    values["doubles"] = len(masks)
    is_counted = f"PAIRS_COUNTED >= {pairs}"
    layer.conditions = {"planes": is_counted, "masks": is_counted, "weights": f"!({is_counted})"}
    layer.block = "small_product"
    layer.arrays["planes"] = words.transpose(0, 2, 3, 1)
    layer.arrays["masks"] = masks.astype(np.uint64)
    places = values["padded_height"] * values["padded_width"] * values["packed"]
    layer.scratch["uint8_t"] = max(room, step.input_bits * places + 2 * WORD)
    return layer
