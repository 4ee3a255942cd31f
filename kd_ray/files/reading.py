"""Reading JSON that may be damaged, or not ours at all: bounded, typed, one sentence if it is not.

A file is parsed by pydantic, which bounds its nesting and its numbers; the type says all that the
code above takes for granted.
"""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

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
        text = f"{path}: must be as kd-ray wrote it, but {reason_of(problem)}; {mend}"
        raise error(text) from problem


def bounded_bytes(path: Path) -> bytes:
    """The bytes of a regular file; whoever reads anything else may wait for good.

    Raises:
        OSError: it is something else, or larger than any that kd-ray writes.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no file")
    if path.stat().st_size > MOST_BYTES:
        raise OSError(f"it has {path.stat().st_size} bytes")
    return path.read_bytes()


def reason_of(problem: Exception) -> str:
    """The clause of a message that says what is wrong with a file's content.

    >>> reason_of(OSError("it is no file"))
    'it is no file'
    """
    if not isinstance(problem, ValidationError):
        return str(getattr(problem, "strerror", None) or problem)
    first = problem.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
