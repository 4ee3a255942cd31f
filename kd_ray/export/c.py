"""A student as one C11 file without dependencies, weights inside.

Values lie in memory pixel by pixel, the channels of one side by side. Products of codes of 1 and 2
bits are counted bits: planes of bits are packed for each pixel, a window is gathered as bytes, and
`x & w` is counted word by word. All other products are plain loops over a gathered window that
compilers vectorize: of integers of 16 bits, and of floats in double precision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from kd_ray.export.c_file import HEADER, SOURCE
from kd_ray.export.c_memory import Memory, planned
from kd_ray.export.c_text import BLOCKS, TYPES
from kd_ray.export.net import (
    CODES,
    Array,
    MaxPool,
    Operation,
    PixelCodes,
    Pixels,
    Product,
    Shortcut,
    Threshold,
    forms_of,
    shapes_of,
)

C_FILE, H_FILE = "student.c", "student.h"
COUNTED = 4
"""As many pairs of bits of a weight and an input are counted; of more, integers are multiplied."""
SEARCHED = 4
"""Codes of more bits are searched among their thresholds, those of fewer are counted."""


def write_c(folder: Path, steps: Sequence[Operation], about: Mapping[str, Any]) -> None:
    """Writes `student.c` and `student.h`; `about` as for a packed student."""
    writer = _Writer(steps)
    for number, step in enumerate(steps):
        writer.take(number, step)
    shape, names = about["shape"], list(about["class_names"])
    values = {
        "student": about.get("student_sha256", ""),
        "channels": shape[0],
        "height": shape[1],
        "width": shape[2],
        "classes": len(names),
        "names": ", ".join(_quoted(name) for name in names),
        "arrays": "\n".join(writer.arrays),
        "memory": "\n".join(writer.memory.declarations()),
        "steps": "\n".join(writer.blocks),
        "last": writer.value(len(steps) - 1),
    }
    (folder / C_FILE).write_text(Template(SOURCE).substitute(values), encoding="utf-8")
    (folder / H_FILE).write_text(Template(HEADER).substitute(values), encoding="utf-8")


def _quoted(name: str) -> str:
    """A text as C writes it; whatever is not plain ASCII as its UTF-8 bytes."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in name.encode()
    )
    return f'"{plain}"'


class _Writer:
    """The parts of the file, step by step."""

    def __init__(self, steps: Sequence[Operation]):
        self.steps, self.forms, self.shapes = steps, forms_of(steps), shapes_of(steps)
        self.memory: Memory = planned(steps)
        self.arrays: list[str] = []
        self.blocks: list[str] = []

    def value(self, number: int) -> str:
        """The pointer to a step's value."""
        form, start = self.memory.places[number]
        return f"({form}s + {start})"

    def take(self, number: int, step: Operation) -> None:
        """Adds the block of one step."""
        names = {f"in{place}": self.value(source) for place, source in enumerate(step.sources)}
        channels, height, width = _sides(self.shapes[number])
        values: dict[str, Any] = {
            **names,
            "name": step.name.replace("*/", ""),
            "n": number,
            "out": self.value(number),
            "type": TYPES[self.forms[number]],
            "channels": channels,
            "height": height,
            "width": width,
            "pixels": height * width,
            "size": channels * height * width,
        }
        if step.sources:
            before = _sides(self.shapes[step.sources[0]])
            values |= dict(zip(("in_channels", "in_height", "in_width"), before, strict=True))
            values["in_pixels"] = before[1] * before[2]
            values["in_type"] = TYPES[self.forms[step.sources[0]]]
        self.blocks.append(Template(BLOCKS[self._kind(number, step, values)]).substitute(values))

    def _kind(self, number: int, step: Operation, values: dict[str, Any]) -> str:
        """The name of the block, whose further values and arrays are added."""
        match step:
            case Pixels():
                self._array(number, "scale", step.scale)
                self._array(number, "offset", step.offset)
            case PixelCodes():
                self._array(number, "codes", step.codes)
            case Product():
                return self._product(number, step, values)
            case Threshold():
                return self._threshold(number, step, values)
            case MaxPool():
                values["lowest"] = "0" if self.forms[number] == CODES else "-INFINITY"
                values |= _window(step.kernel, step.stride, step.padding)
            case Shortcut():
                values["rows"], values["columns"] = step.stride
                values["kept"] = values["in_channels"]
        if step.kind == "affine":
            self._array(number, "scale", step.scale)  # type: ignore[attr-defined]
            self._array(number, "bias", step.bias)  # type: ignore[attr-defined]
        if step.kind == "level":
            values["step"] = _float(step.step)  # type: ignore[attr-defined]
            values["low"] = _float(step.low)  # type: ignore[attr-defined]
        return step.kind

    def _product(self, number: int, step: Product, values: dict[str, Any]) -> str:
        weights = step.weights if step.bits == 32 else step.integers
        if weights.ndim == 2:
            weights = weights[:, :, None, None]
        if step.weights.ndim == 2:
            values |= {"in_channels": step.weights.shape[1], "in_height": 1, "in_width": 1}
        outputs, inputs, height, width = weights.shape
        values |= _window((height, width), step.stride, step.padding, step.dilation)
        values["padded_height"] = values["in_height"] + 2 * step.padding[0]
        values["padded_width"] = values["in_width"] + 2 * step.padding[1]
        values |= {"groups": step.groups, "group_in": inputs, "group_out": outputs // step.groups}
        values |= {"taps": inputs * height * width, "zero": step.zero}
        by_tap = weights.transpose(0, 2, 3, 1).reshape(outputs, -1)
        padded = values["padded_height"] * values["padded_width"] * values["in_channels"]
        if not step.is_integer:
            self._array(
                number, "weights", by_tap.T if step.bits == 32 else by_tap.T.astype(np.int16)
            )
            self.memory.scratch("float", padded)
            return "float_product"
        if step.bits * step.input_bits > COUNTED or step.groups > 1:
            self._array(number, "weights", by_tap.astype(np.int16))
            self.memory.scratch("int16_t", padded)
            return "integer_product"
        packed = -(-inputs // 8)
        words = -(-height * width * packed // 8)
        values |= {"packed": packed, "words": words, "bits": step.bits, "places": step.input_bits}
        values |= {"factor": step.factor, "shift": step.shift}
        self.memory.scratch(
            "uint8_t", step.input_bits * values["padded_height"] * values["padded_width"] * packed
        )
        self._array(number, "planes", _planes(step, words))
        self._array(number, "zeros", (step.zero * by_tap.sum(1)).astype(np.int32))
        return "counted_product"

    def _threshold(self, number: int, step: Threshold, values: dict[str, Any]) -> str:
        values |= {"levels": step.thresholds.shape[1], "bits": step.bits}
        shared = len(step.thresholds) == 1
        values["every"] = 0 if shared else 1
        values["turn"] = f"* turned_{number}[o]" if step.turned.any() else ""
        if step.turned.any():
            self._array(number, "turned", np.where(step.turned, -1, 1).astype(np.int8))
        if step.bits > SEARCHED:
            self._array(number, "thresholds", step.thresholds)
            return "searched_threshold"
        self._array(number, "thresholds", step.thresholds.T)
        return "threshold"

    def _array(self, number: int, name: str, array: Array) -> None:
        """Declares a constant array."""
        if array.dtype.kind == "f":
            kind, texts = "float", [_float(float(value)) for value in array.flat]
        elif array.dtype == np.uint64:
            kind, texts = "uint64_t", [f"{value:#x}u" for value in array.flat]
        else:
            kind, texts = f"{array.dtype.name}_t", [str(value) for value in array.flat]
        lines = [", ".join(texts[start : start + 12]) for start in range(0, len(texts), 12)]
        text = ",\n".join(lines)
        self.arrays.append(f"static const {kind} {name}_{number}[{len(texts)}] = {{\n{text}}};")


def _sides(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, rows and columns of a value; one pixel where it is flat."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (int(np.prod(shape)), 1, 1)


def _window(
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> dict[str, int]:
    names = ("kernel", "stride", "padding", "dilation")
    pairs = zip(names, (kernel, stride, padding, dilation), strict=True)
    return {f"{name}_{axis}": pair[axis] for name, pair in pairs for axis in (0, 1)}


def _float(value: float) -> str:
    """A float32 as C reads it back to the last bit."""
    value = float(np.float32(value))
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value.hex()}f"


def _planes(step: Product, words: int) -> Array:
    """Bits of the weights' codes, `(O, bits, words)`; a pixel's channels fill whole bytes."""
    codes = step.weights if step.weights.ndim == 4 else step.weights[:, :, None, None]
    codes = codes.transpose(0, 2, 3, 1)
    fill = -codes.shape[3] % 8
    codes = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, fill)))
    planes = [
        np.packbits((codes >> place) & 1, axis=3, bitorder="little").reshape(len(codes), -1)
        for place in range(step.bits)
    ]
    stacked = np.stack(planes, axis=1)
    stacked = np.pad(stacked, ((0, 0), (0, 0), (0, 8 * words - stacked.shape[2])))
    return np.ascontiguousarray(stacked).view("<u8").astype(np.uint64)
