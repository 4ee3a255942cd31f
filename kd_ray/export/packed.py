"""The packed format: one safetensors file of bit-packed codes, with the description inside.

Written here; read by `kd_ray.deployed`, which knows nothing of this package.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from kd_ray.deployed import CODES, DESCRIPTION, FORMAT, METADATA, digest_of
from kd_ray.export.net import Array, Operation, PixelCodes, Product

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
    pools: dict[str, list[Array]] = {}
    tables = [_table(step, pools) for step in steps]
    text = json.dumps({**about, "steps": tables}, separators=(",", ":"))
    pools[DESCRIPTION] = [np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)]
    tensors = {name: np.concatenate(parts) for name, parts in pools.items()}
    plain = save(tensors)
    start = HEADER_BYTES + int.from_bytes(plain[:HEADER_BYTES], "little")
    digest = digest_of(json.loads(plain[HEADER_BYTES:start]), plain[start:])
    # One key: safetensors writes several in no fixed order, and equal students have equal files.
    entry = json.dumps({"format": FORMAT, "sha256": digest}, separators=(",", ":"))
    file.write_bytes(save(tensors, {METADATA: entry}))


def _table(step: Operation, pools: dict[str, list[Array]]) -> dict[str, Any]:
    """A step's description; its arrays are added to those of their type."""
    table: dict[str, Any] = {"kind": step.kind}
    for each in fields(step):
        value = getattr(step, each.name)
        if not isinstance(value, np.ndarray):
            table[each.name] = value
            continue
        if value.dtype.kind in "bu":
            bits = step.bits if isinstance(step, Product | PixelCodes) else 1
            kind, pool, flat = f"uint{bits}", CODES, packed_codes(value.astype(np.uint8), bits)
        else:
            flat = value.astype(np.float32 if value.dtype.kind == "f" else value.dtype).ravel()
            kind = pool = flat.dtype.name
        table.setdefault("arrays", {})[each.name] = [kind, value.shape]
        pools.setdefault(pool, []).append(flat)
    return table
