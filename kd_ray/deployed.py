"""A reader of packed students in plain numpy: the reference for every other machine.

`load(path)(pixels)` gives logits. It imports neither torch nor Ray, and shows how little a low-bit
student takes: products of codes of 1 and 2 bits are counted bits, and all sums are exact integers.
The format is described in `kd_ray/export/README.md`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.errors import CheckpointError, DataError

Array = NDArray[Any]
FORMAT, METADATA = "kd-ray packed 1", "kd-ray"
AT_ONCE = 2**22
"""Codes of windows that are held at once."""
COUNTED = 4
"""Products of as many pairs of bits are counted; of more, done in floats that hold integers."""


class Student:
    """A packed student.

    Attributes:
        description: as the file has it: `steps`, `class_names`, `shape` and where it comes from.
        steps: each a table; its tensors are arrays.
    """

    def __init__(self, description: dict[str, Any], steps: list[dict[str, Any]]):
        self.description, self.steps = description, steps

    def __call__(self, pixels: Array) -> Array:
        """Logits `(N, K)` float32 of pictures `(N, C, H, W)` uint8.

        Raises:
            DataError: pictures of another shape or type.
        """
        shape = tuple(self.description["shape"])
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
            raise DataError(
                f"pixels: must be uint8 of shape (N, {', '.join(map(str, shape))}), but got "
                f"{pixels.dtype} of shape {pixels.shape}; convert them"
            )
        if not len(pixels):
            return np.zeros((0, len(self.description["class_names"])), np.float32)
        pieces = [pixels[start : start + 256] for start in range(0, len(pixels), 256)]
        return np.concatenate([self.values(piece)[-1] for piece in pieces])

    def values(self, pixels: Array) -> list[Array]:
        """What every step makes of pictures: the last one logits, products of codes int32 sums."""
        made: list[Array] = []
        for step in self.steps:
            given = [made[source] for source in step["sources"]] or [pixels]
            made.append(KINDS[step["kind"]](step, *given))
        return made


def load(path: str | Path) -> Student:
    """A packed student from its file.

    Raises:
        CheckpointError: it is no such file, or was altered.
    """
    mend = "export it again"
    try:
        content = Path(path).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        about = json.loads(header.pop("__metadata__")[METADATA])
        text, data = about["description"], content[8 + size :]
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: must be a packed student ({FORMAT}), but cannot be read as one "
            f"({' '.join(str(error).split())[:120]}); {mend}"
        ) from None
    digest = hashlib.sha256(text.encode() + data).hexdigest()
    if digest != about["sha256"]:
        raise CheckpointError(
            f"{path}: must be as it was written, but its sha256 is {digest[:12]} and not "
            f"{about['sha256'][:12]}; {mend}"
        )
    description = json.loads(text)
    arrays = {name: _array(entry, data) for name, entry in header.items()}
    return Student(
        description, [_with_arrays(n, s, arrays) for n, s in enumerate(description["steps"])]
    )


def _array(entry: dict[str, Any], data: bytes) -> Array:
    kinds = {"F32": "<f4", "I32": "<i4", "I16": "<i2", "U8": "u1", "BOOL": "?"}
    start, stop = entry["data_offsets"]
    values: Array = np.frombuffer(data[start:stop], kinds[entry["dtype"]])
    return values.reshape(entry["shape"])


def _with_arrays(number: int, step: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    own = f"{number}."
    found = {name.removeprefix(own): each for name, each in arrays.items() if name.startswith(own)}
    if "shape" in step and step["kind"] == "product" and step["bits"] < 32:
        found["weights"] = unpacked(found["weights"], step["bits"], step["shape"])
    return {**step, **found}


def unpacked(packed: Array, bits: int, shape: list[int]) -> Array:
    """Codes of `bits` bits each, that lie one behind the other in bytes, lowest bit first."""
    places = np.unpackbits(packed, count=prod(shape) * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray((places.reshape(-1, bits) * weights).sum(1, dtype=np.uint8)).reshape(shape)


def _per_channel(values: Array, like: Array) -> Array:
    """`(C,)` to stand beside `(N, C, ...)`."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


def _pixels(step: dict[str, Any], x: Array) -> Array:
    scaled: Array = x * _per_channel(step["scale"], x)
    return scaled + _per_channel(step["offset"], x)


def _affine(step: dict[str, Any], x: Array) -> Array:
    scaled: Array = x.astype(np.float32) * _per_channel(step["scale"], x)
    return scaled + _per_channel(step["bias"], x)


def _threshold(step: dict[str, Any], x: Array) -> Array:
    if step["turned"].size:
        x = np.where(_per_channel(step["turned"], x), -x, x)
    codes = np.zeros(x.shape, np.uint8)
    for threshold in step["thresholds"].T:
        codes += x >= _per_channel(threshold, x)
    return codes


def _level(step: dict[str, Any], x: Array) -> Array:
    scaled: Array = x.astype(np.float32) * np.float32(step["step"])
    return scaled + np.float32(step["low"])


def _windows(step: dict[str, Any], x: Array, fill: float) -> Array:
    """`(N, C, H', W', h, w)`, a view of each window of `(N, C, H, W)`, with a border of `fill`."""
    (top, left), (rows, columns) = step["padding"], step["stride"]
    border = ((0, 0), (0, 0), (top, top), (left, left))
    x = np.pad(x, border, constant_values=fill)
    down, right = step.get("dilation", (1, 1))
    height, width = step.get("kernel") or step["weights"].shape[2:]
    reach = (down * (height - 1) + 1, right * (width - 1) + 1)
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return np.asarray(seen[:, :, ::rows, ::columns, ::down, ::right])


def _product(step: dict[str, Any], x: Array) -> Array:
    weights, groups = step["weights"], step["groups"]
    if weights.ndim == 2:
        return _rows_times(step, weights, x)
    windows = _windows(step, x, step["zero"]).transpose(0, 2, 3, 1, 4, 5)
    n, height, width = windows.shape[:3]
    fewest = max(1, AT_ONCE // prod(windows.shape[1:]))
    parts = []
    for start in range(0, n, fewest):
        some = windows[start : start + fewest]
        each = zip(np.split(some, groups, axis=3), np.split(weights, groups), strict=True)
        made = [
            _rows_times(step, own.reshape(len(own), -1), part.reshape(-1, prod(part.shape[3:])))
            for part, own in each
        ]
        parts.append(np.concatenate(made, axis=1).reshape(len(some), height, width, len(weights)))
    return np.concatenate(parts).transpose(0, 3, 1, 2)


def _rows_times(step: dict[str, Any], weights: Array, x: Array) -> Array:
    """`(R, I)` times weights `(O, I)`: `(R, O)`; of codes the exact integers, int32."""
    bits, input_bits = step["bits"], step["input_bits"]
    if bits == 32:
        return np.asarray(x.astype(np.float64) @ weights.T.astype(np.float64), np.float32)
    integers = step["factor"] * weights.astype(np.int64) + step["shift"]
    if input_bits == 32:
        return np.asarray(x.astype(np.float64) @ integers.T, np.float32)
    if bits * input_bits > COUNTED:
        sums = (x.astype(np.float64) @ integers.T).astype(np.int32)
    else:
        counted = sum(
            (1 << place + other) * _common(ones, own)
            for place, ones in enumerate(_planes(x, input_bits))
            for other, own in enumerate(_planes(weights, bits))
        )
        sums = step["factor"] * counted + step["shift"] * x.sum(1, dtype=np.int32)[:, None]
    zeros = (step["zero"] * integers.sum(1)).astype(np.int32)
    return np.asarray(sums - zeros, np.int32)


def _planes(codes: Array, bits: int) -> Iterator[Array]:
    """`(R, I)` codes: for each bit, from the lowest, `(R, I / 64)` words."""
    fill = np.zeros((len(codes), -codes.shape[1] % 64), np.uint8)
    codes = np.concatenate([codes, fill], axis=1)
    for place in range(bits):
        yield np.packbits((codes >> place) & 1, axis=1).view(np.uint64)


def _common(ones: Array, own: Array) -> Array:
    """How many bits rows have in common, `(R, W)` with `(O, W)`: `(R, O)`."""
    found = np.zeros((len(ones), len(own)), np.int32)
    for word in range(ones.shape[1]):
        found += np.bitwise_count(ones[:, word, None] & own[None, :, word])
    return found


def _max_pool(step: dict[str, Any], x: Array) -> Array:
    lowest = 0 if x.dtype == np.uint8 else -np.inf
    pooled: Array = _windows(step, x, lowest).max(axis=(4, 5))
    return pooled


def _mean_pool(step: dict[str, Any], x: Array) -> Array:
    return np.asarray(x.mean(axis=(2, 3), keepdims=True, dtype=np.float64), np.float32)


def _shortcut(step: dict[str, Any], x: Array) -> Array:
    rows, columns = step["stride"]
    return np.pad(x[:, :, ::rows, ::columns], ((0, 0), (0, step["extra"]), (0, 0), (0, 0)))


KINDS: dict[str, Callable[..., Array]] = {
    "pixels": _pixels,
    "product": _product,
    "affine": _affine,
    "threshold": _threshold,
    "level": _level,
    "max_pool": _max_pool,
    "mean_pool": _mean_pool,
    "relu": lambda step, x: np.maximum(x, np.float32(0)),
    "add": lambda step, x, y: x + y,
    "flatten": lambda step, x: x.reshape(len(x), -1),
    "shortcut": _shortcut,
}
