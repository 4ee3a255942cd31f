"""Places: text that names a folder or file, on a disk or in an object store, as a path."""

import re
from pathlib import Path, PurePosixPath
from typing import cast

from kd_ray.errors import ConfigError
from kd_ray.files.store import EXTRAS, reach
from kd_ray.files.stored import StoredPath

# `Path` makes one slash of two, so a URL that went through it is still known by its scheme.
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.DOTALL)


def to_path(text: str | Path) -> Path:
    """The path that text names; one in an object store if it is such a URL.

    The first time that a process meets a bucket, it makes sure that it answers.

    >>> to_path("runs/mnist")
    PosixPath('runs/mnist')

    Raises:
        ConfigError: a URL of a kind that is not known, without a bucket, or with credentials in it.
        StorageError: the store does not answer, or its client is not installed.
    """
    if stored(text) is not None:
        return cast(Path, text)
    url = URL.fullmatch(str(text))
    if url is None or (url["scheme"] not in EXTRAS and len(url["slashes"]) == 1):
        return Path(text)
    scheme = url["scheme"]
    if scheme not in EXTRAS:
        known = " or ".join(f"{name}://" for name in EXTRAS)
        raise ConfigError(
            f"{scheme}://: must be a local path or a URL that begins with {known}, but is neither; "
            "mount other stores as a folder"
        )
    path = PurePosixPath(url["rest"].lstrip("/"))
    if not path.parts or path.parts[0] in (".", ".."):
        raise ConfigError(f"{scheme}://: must name a bucket, such as {scheme}://bucket/runs")
    if "@" in path.parts[0] or ":" in path.parts[0]:  # not repeated: it may be a password
        raise ConfigError(
            f"{scheme}://: must name a bucket and no credentials, but got something before an @ or "
            "a colon; leave it out, and set the credentials in the environment"
        )
    if ".." in path.parts:
        raise ConfigError(f"{text}: must be the plain name of a place, but has '..' in it")
    reach(scheme, path.parts[0], "/".join(path.parts[1:]))
    # A `StoredPath` has what is used of a `Path` here; this is the one place that pretends more.
    return cast(Path, StoredPath(f"{scheme}:", path))


def stored(path: object) -> StoredPath | None:
    """The given path if it lies in an object store, else None."""
    return path if isinstance(path, StoredPath) else None


def is_stored(path: Path) -> bool:
    """Whether a path lies in an object store."""
    return stored(path) is not None
