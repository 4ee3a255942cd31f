"""Reading JSON that may be damaged, or not ours at all: bounded, typed, one sentence if it is not.

A file is parsed by pydantic, which bounds its nesting and its numbers; the type says all that the
code above takes for granted.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from kd_ray.errors import KdRayError

MOST_BYTES = 2**28
"""Of a file that is read; the longest history takes a few million."""


def read_json(path: Path, shape: Any, error: type[KdRayError], mend: str) -> Any:
    """What a JSON file holds, as an object of the type `shape`.

    Args:
        path: of the file, here or in a store.
        shape: a pydantic model, or any other type that pydantic checks.
        error: what is raised where the file is not as it was written.
        mend: what to do then.

    Raises:
        FileNotFoundError: there is none, as of any path that leads nowhere.
        KdRayError: an `error` that names the file, the place in it and what to do.
    """
    try:
        return TypeAdapter(shape).validate_json(bounded_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError) as problem:
        text = f"{path}: must be as it was written, but {reason_of(problem)}; {mend}"
        raise error(text) from problem


def bounded_bytes(path: Path) -> bytes:
    """The bytes of a regular file that is no larger than any that kd-ray writes.

    Raises:
        OSError: it is something else, or larger.
    """
    check_regular(path)
    if path.stat().st_size > MOST_BYTES:
        raise OSError(f"it has {path.stat().st_size} bytes")
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Refuses what is there but no file, such as a pipe: who reads one may wait for good.

    Raises:
        OSError: it is something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")


def ruled(rule: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """Part of a type: what refuses a value that breaks a rule between its parts."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def reason_of(problem: Exception) -> str:
    """The clause of a message that says what is wrong with a file's content.

    >>> reason_of(OSError("it is no file"))
    'it is no file'
    """
    if not isinstance(problem, ValidationError):
        return str(getattr(problem, "strerror", None) or problem)
    first = problem.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    rule = first["msg"].removeprefix("Value error, ")
    return f"{place}: {rule}" if place else rule
