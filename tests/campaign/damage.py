"""Values and bytes that are wrong, and the case in which `kd-ray` is given them."""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

DEEP = 5000
NASTY: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 10**5, 10**9, 99_999_999_999, 10**30, 2**31, 2**63, -(2**63)),
    *(0.0, -0.5, 0.5, 1.0, 1e-320, 1e308, -1e308, float("inf"), float("nan")),
    *("", " ", "none", "null", "mlp", "T^2", "1e999", "9" * 400, "x" * 5000, "é☃\u202e", "a\x00b"),
    *("../../x", "~nobody/x", "/proc/self/mem", "/dev/zero", "-", "--help", "${HOME}", "[", "{}"),
    *(True, False, [], [[]], {}, [0], [-1], [1, 1], [1e308, 1e308], ["a", 1], [10**5, 10**5]),
    *({"name": "mlp"}, {"name": ""}, {"name": "mlp", "hidden": [99_999_999_999]}, {"": 1}),
    *({"name": "step", "milestones": [-1]}, {"choice": []}, {"log_uniform": [0, 1]}),
)
"""Values for any key: each is wrong for most keys, and some are right for a few."""


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        kind: the maker's name.
        about: what is wrong, in a line.
        arguments: of `kd-ray`.
        problem: asked after it was accepted; says what is wrong with that, if anything is.
    """

    kind: str
    about: str
    arguments: list[str]
    problem: Callable[[], str] = lambda: ""


def keys(table: Mapping[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """The way to each key of a table, those of inner tables included."""
    for key, value in table.items():
        yield *above, key
        if isinstance(value, dict):
            yield from keys(value, *above, key)


def inline(value: Any) -> str:
    """A value as TOML in one line; of a table without its empty keys, which TOML lacks."""
    if isinstance(value, dict):
        inner = (f"{json.dumps(k)} = {inline(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(inner)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def flipped(draw: random.Random, content: bytes) -> bytes:
    """One bit of it is another."""
    if not content:
        return b"\x01"
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def shuffled(draw: random.Random, content: bytes) -> bytes:
    """Some lines are missing or come twice."""
    lines = content.splitlines(keepends=True)
    return b"".join(draw.choices(lines, k=len(lines)))


BYTES: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    "a flipped bit": flipped,
    "truncated": lambda draw, content: content[: draw.randrange(max(1, len(content)))],
    "empty": lambda draw, content: b"",
    "garbage": lambda draw, content: draw.randbytes(200),
    "zeros": lambda draw, content: bytes(len(content)),
    "twice": lambda draw, content: content * 2,
}
"""Damage to the bytes of any file."""

TEXTS: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    **BYTES,
    "lines missing and twice": shuffled,
    "deep nesting": lambda draw, content: b"x = " + b"[" * DEEP + b"]" * DEEP + b"\n" + content,
    "deep tables": lambda draw, content: content + b"\n[" + b".".join([b"a"] * DEEP) + b"]\n",
    "many digits": lambda draw, content: content.replace(b"0.01", b"9" * DEEP),
    "a byte order mark": lambda draw, content: b"\xef\xbb\xbf" + content,
    "not UTF-8": lambda draw, content: content.replace(b"tiny", b"t\xefny"),
    "no table": lambda draw, content: b"train = 3\nsweep = []\n",
}


SHAPES: tuple[Any, ...] = (
    *([], {}, None, 0, "x", {"status": "finished"}, {"kind": "teacher"}, [[[]]], {"x": {}}),
)


def other_shape(draw: random.Random, content: bytes) -> bytes:
    """JSON of which one value is another, or missing; or other JSON."""
    table = json.loads(content)
    if not isinstance(table, dict) or draw.random() < 0.2:
        return json.dumps(draw.choice(SHAPES)).encode()
    *above, last = draw.choice(sorted(keys(table)))
    inner = reduce(getitem, above, table)
    del inner[last]
    if draw.random() < 0.6:
        inner[last] = draw.choice([*SHAPES, *NASTY])
    return json.dumps(table).encode()


PLACES: Mapping[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a named pipe": lambda path: os.mkfifo(path),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
"""What may lie in a file's place."""
