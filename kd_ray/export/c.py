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

from kd_ray.export.c_chain import SEARCHED, chains_of
from kd_ray.export.c_file import HEADER, SOURCE
from kd_ray.export.c_layer import layer_of, window
from kd_ray.export.c_machine import MACHINES
from kd_ray.export.c_memory import Memory, planned
from kd_ray.export.c_product import ENDS, PRODUCTS
from kd_ray.export.c_text import BLOCKS, TYPES
from kd_ray.export.c_tiles import TILED_PRODUCT
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


def write_c(folder: Path, steps: Sequence[Operation], about: Mapping[str, Any]) -> None:
    """Writes `student.c` and `student.h`; `about` as for a packed student."""
    writer = _Writer(steps)
    for number, step in enumerate(steps):
        if writer.sources[number] is not None:
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
        "machine": "\n".join(
            lines for name, lines in MACHINES.items() if any(name in b for b in writer.blocks)
        ),
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
        self.chains = chains_of(steps)
        inside = {each for chain in self.chains.values() for each in chain.inside}
        self.sources: list[tuple[int, ...] | None] = [
            None if number in inside else step.sources for number, step in enumerate(steps)
        ]
        for number, chain in self.chains.items():
            self.sources[number] = steps[chain.product].sources
        used = {source for own in self.sources for source in own or ()}
        self.sources[0] = () if used & {0} else None
        self.memory: Memory = planned(steps, self.sources)
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
        product = self.steps[self.chains[number].product] if number in self.chains else step
        if isinstance(product, Product):
            block = self._layer(number, product, values)
        else:
            block = BLOCKS[self._kind(number, step, values)]
        self.blocks.append(Template(Template(block).safe_substitute(values)).substitute(values))

    def _kind(self, number: int, step: Operation, values: dict[str, Any]) -> str:
        """The name of the block, whose further values and arrays are added."""
        match step:
            case Pixels():
                self._array(number, "scale", step.scale)
                self._array(number, "offset", step.offset)
            case PixelCodes():
                self._array(number, "codes", step.codes)
            case Threshold():
                return self._threshold(number, step, values)
            case MaxPool():
                values["lowest"] = "0" if self.forms[number] == CODES else "-INFINITY"
                values |= window(step.kernel, step.stride, step.padding)
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

    def _layer(self, number: int, product: Product, values: dict[str, Any]) -> str:
        """The C of a product, up to the codes of a chain if it is one."""
        chain = self.chains.get(number)
        before = _sides(self.shapes[product.sources[0]])
        made = layer_of(product, before, chain)
        values |= {**made.values, "name": product.name.replace("*/", "")}
        values["in0"] = self.value(product.sources[0])
        values["in_type"] = TYPES[self.forms[product.sources[0]]]
        for name, array in made.arrays.items():
            self._array(number, name, array, made.conditions.get(name))
        for kind, size in made.scratch.items():
            self.memory.scratch(kind, size)
        tiles = TILED_PRODUCT if "positions" in made.values else ""
        block = PRODUCTS[made.block].replace("$tiles\n", tiles)
        return block.replace("$finish", ENDS[made.values["end"]])

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

    def _array(self, number: int, name: str, array: Array, condition: str | None = None) -> None:
        """Declares a constant array, under a condition of C if there is one."""
        if array.dtype.kind == "f":
            kind, texts = "float", [_float(float(value)) for value in array.flat]
        elif array.dtype in (np.uint32, np.uint64):
            kind, texts = f"{array.dtype.name}_t", [f"{value:#x}u" for value in array.flat]
        else:
            kind, texts = f"{array.dtype.name}_t", [str(value) for value in array.flat]
        lines = [", ".join(texts[start : start + 12]) for start in range(0, len(texts), 12)]
        text = ",\n".join(lines)
        declared = f"static _Alignas(64) const {kind} {name}_{number}[{len(texts)}] = {{\n{text}}};"
        self.arrays.append(f"#if {condition}\n{declared}\n#endif" if condition else declared)


def _sides(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, rows and columns of a value; one pixel where it is flat."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (int(np.prod(shape)), 1, 1)


def _float(value: float) -> str:
    """A float32 as C reads it back to the last bit."""
    value = float(np.float32(value))
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value.hex()}f"
