"""The packed format: one safetensors file of bit-packed codes, with the description beside them.

Written here; read by `kd_ray.deployed`, which knows nothing of this package.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from kd_ray.deployed import FORMAT, METADATA
from kd_ray.export.net import Array, Operation, Product

HEADER_BYTES = 8


def packed_codes(codes: Array, bits: int) -> Array:
    """Codes one behind the other, as many bits each as they need and no more, lowest bit first.

    >>> packed_codes(np.array([1, 2, 3, 0], np.uint8), 2)
    array([57], dtype=uint8)
    """
    places = (codes.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(places.astype(np.uint8), bitorder="little")


def write_packed(file: Path, steps: Sequence[Operation], about: Mapping[str, Any]) -> None:
    """Writes a student.

    Args:
        file: written at once; whoever calls sees to it that it is whole.
        steps: of the student.
        about: what else its description says, `shape` and `class_names` among it.
    """
    arrays: dict[str, Array] = {}
    tables = [_table(number, step, arrays) for number, step in enumerate(steps)]
    text = json.dumps({**about, "steps": tables}, separators=(",", ":"))
    plain = save(arrays)
    start = HEADER_BYTES + int.from_bytes(plain[:HEADER_BYTES], "little")
    digest = hashlib.sha256(text.encode() + plain[start:]).hexdigest()
    # One key: safetensors writes several in no fixed order, and equal students have equal files.
    entry = {"format": FORMAT, "sha256": digest, "description": text}
    file.write_bytes(save(arrays, {METADATA: json.dumps(entry)}))


def _table(number: int, step: Operation, arrays: dict[str, Array]) -> dict[str, Any]:
    """A step's description; its arrays are added under its number."""
    table: dict[str, Any] = {"kind": step.kind}
    for each in fields(step):
        value = getattr(step, each.name)
        if not isinstance(value, np.ndarray):
            table[each.name] = value
            continue
        if isinstance(step, Product) and each.name == "weights":
            table["shape"] = value.shape
            if step.bits < 32:
                value = packed_codes(value, step.bits)
        floats = value.dtype == np.float64
        arrays[f"{number}.{each.name}"] = np.ascontiguousarray(
            value.astype(np.float32) if floats else value
        )
    return table
