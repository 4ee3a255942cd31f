"""A reader of packed students in plain numpy: the reference for every other machine.

`load(path)(pixels)` gives logits. It imports neither torch nor Ray, and shows how little a low-bit
student takes: products of codes of 1 and 2 bits are counted bits, and all sums are exact integers.
The format is described in `kd_ray/export/README.md`.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.errors import CheckpointError, DataError

Array = NDArray[Any]
FORMAT, METADATA = "kd-ray packed 1", "kd-ray"
CODES, DESCRIPTION = "codes", "description"
LONGEST = 2**24
"""Bytes of a description: what was deflated may be a thousand times as long."""
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
        starts = range(0, len(pixels), 256)
        return np.concatenate([self.values(pixels[at : at + 256])[-1] for at in starts])

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
    try:
        content = Path(path).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
        about = json.loads(header.pop("__metadata__")[METADATA])
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        if (digest := digest_of(header, data)) != about["sha256"]:
            raise ValueError(f"its sha256 is {digest[:12]}, so it was altered")
        return _student({name: _pool(entry, data) for name, entry in header.items()})
    except Exception as error:  # a file that is none may fail anywhere
        raise CheckpointError(
            f"{path}: must be a packed student ({FORMAT}) as it was written, but cannot be read as "
            f"one ({' '.join(str(error).split())[:120]}); export it again"
        ) from None


def digest_of(header: dict[str, Any], data: bytes) -> str:
    """The sha256 of all tensors and of where they lie."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data).hexdigest()


def _pool(entry: dict[str, Any], data: bytes) -> Array:
    """All arrays of one type, one behind the other."""
    kinds = {"F32": "<f4", "I32": "<i4", "I16": "<i2", "U8": "u1"}
    start, stop = entry["data_offsets"]
    return np.frombuffer(data[start:stop], kinds[entry["dtype"]])


def _student(pools: dict[str, Array]) -> Student:
    """The description, and the arrays that it cuts off the pools in its order."""
    stream = zlib.decompressobj()
    text = stream.decompress(pools[DESCRIPTION].tobytes(), LONGEST)
    if not stream.eof:
        raise ValueError(f"its description has no end within {LONGEST} bytes")
    description = json.loads(text)
    taken = dict.fromkeys(pools, 0)

    def cut(kind: str, shape: list[int]) -> Array:
        bits = int(kind.removeprefix("uint")) if kind.startswith("uint") else 0
        pool, size = (CODES, -(-prod(shape) * bits // 8)) if bits else (kind, prod(shape))
        part = pools[pool][taken[pool] : taken[pool] + size]
        taken[pool] += size
        if len(part) != size or not 0 <= bits <= 8:
            raise ValueError(f"it has no {kind} of shape {shape}")
        return unpacked(part, bits, shape) if bits else part.reshape(shape)

    steps = description["steps"]
    own = [{name: cut(*each) for name, each in s.get("arrays", {}).items()} for s in steps]
    return Student(description, [{**s, **arrays} for s, arrays in zip(steps, own, strict=True)])


def unpacked(packed: Array, bits: int, shape: list[int]) -> Array:
    """Codes of `bits` bits each, that lie one behind the other in bytes, lowest bit first."""
    places = np.unpackbits(packed, count=prod(shape) * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray((places.reshape(-1, bits) * weights).sum(1, dtype=np.uint8)).reshape(shape)


def _per_channel(values: Any, like: Array) -> Array:
    """`(C,)`, or a number, to stand beside `(N, C, ...)`."""
    return np.reshape(values, (-1, *[1] * (like.ndim - 2)))


def _scaled(x: Array, scale: Any, offset: Any) -> Array:
    """Multiplied and then added in float32, by channel."""
    scaled: Array = x.astype(np.float32) * _per_channel(scale, x)
    return scaled + _per_channel(offset, x)


def _threshold(step: dict[str, Any], x: Array) -> Array:
    if step["turned"].size:
        x = np.where(_per_channel(step["turned"], x), -x, x)
    if len(step["thresholds"]) == 1:
        return np.searchsorted(step["thresholds"][0], x, "right").astype(np.uint8)
    codes = np.zeros(x.shape, np.uint8)
    for threshold in step["thresholds"].T:
        codes += x >= _per_channel(threshold, x)
    return codes


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
    integers = weights if bits == 32 else step["factor"] * weights.astype(np.int64) + step["shift"]
    if 32 in (bits, input_bits):
        return np.asarray(x.astype(np.float64) @ integers.T.astype(np.float64), np.float32)
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
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 64)))
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
    return np.asarray(_windows(step, x, lowest).max(axis=(4, 5)))


def _mean_pool(step: dict[str, Any], x: Array) -> Array:
    sums = x.reshape(*x.shape[:2], -1).cumsum(2, dtype=np.float64)  # one pixel after the other
    return np.asarray(sums[:, :, -1:, None] / sums.shape[2], np.float32)


def _shortcut(step: dict[str, Any], x: Array) -> Array:
    rows, columns = step["stride"]
    return np.pad(x[:, :, ::rows, ::columns], ((0, 0), (0, step["extra"]), (0, 0), (0, 0)))


KINDS: dict[str, Callable[..., Array]] = {
    "pixels": lambda step, x: _scaled(x, step["scale"], step["offset"]),
    "pixel_codes": lambda step, x: step["codes"][np.arange(x.shape[1])[:, None, None], x],
    "product": _product,
    "affine": lambda step, x: _scaled(x, step["scale"], step["bias"]),
    "threshold": _threshold,
    "level": lambda step, x: _scaled(x, np.float32(step["step"]), np.float32(step["low"])),
    "max_pool": _max_pool,
    "mean_pool": _mean_pool,
    "relu": lambda step, x: np.maximum(x, np.float32(0)),
    "add": lambda step, x, y: x + y,
    "flatten": lambda step, x: x.reshape(len(x), -1),
    "shortcut": _shortcut,
}
