"""Places on a disk or in an object store, as paths: the latter with as much of one as is used here.

Unlike other such classes, `StoredPath` never takes a store's failure for the absence of a file: a
checkpoint that seems to be missing would be trained anew.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, Self, cast

from kd_ray.errors import ConfigError, StorageError
from kd_ray.files.store import EXTRAS, answering, reach, store

# `Path` makes one slash of two, so a URL that went through it is still known by its scheme.
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.DOTALL)


class StoredPath(PurePosixPath):
    """`scheme://bucket/key`; what lies below it is looked up anew at every call.

    Its first part is the scheme with its colon. A folder is there as long as something lies in it.
    Every method raises a `StorageError` where the store does not answer as it should, and those
    that read or ask for a size a `FileNotFoundError` where there is no such file.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not a file of this machine")

    @property
    def key(self) -> str:
        """The path as the clients want it: bucket, slash, key."""
        return "/".join(self.parts[1:])

    @property
    def files(self) -> Any:
        """The fsspec filesystem that it lies in."""
        return store(self.parts[0].removesuffix(":"))

    def absolute(self) -> Self:
        """The path itself."""
        return self

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing; a store has no empty folders."""

    def stat(self) -> SimpleNamespace:
        """The size of the file in bytes, as `st_size`."""
        info = self._info()
        if info.get("type") != "file":
            raise FileNotFoundError(str(self))
        return SimpleNamespace(st_size=info["size"])

    def exists(self) -> bool:
        """Whether it is a file, or a folder with something in it."""
        return bool(self._info())

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._info().get("type") == "file"

    def is_dir(self) -> bool:
        """Whether something lies below it."""
        return self._info().get("type") == "directory"

    def _info(self) -> dict[str, Any]:
        """What the store says of it; nothing of what is not there."""
        with suppress(FileNotFoundError), answering(self):
            return dict(self.files.info(self.key))
        return {}

    def read_bytes(self) -> bytes:
        """The bytes of a file."""
        with answering(self):
            return bytes(self.files.cat_file(self.key))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The text of a file; see `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> Iterator[Self]:
        """Files and folders below that match, in order; `*` stays within a name."""
        wanted = PurePosixPath(pattern).parts
        plain = list(takewhile(lambda part: "*" not in part, wanted[:-1]))
        depth = len(self.parts) + len(wanted)
        prefix = wanted[len(plain)].partition("*")[0]
        for path in self.joinpath(*plain)._below(prefix):
            if len(path.parts) == depth and path.match(pattern):
                yield path

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Files and folders at any depth whose last parts match, in order; see `glob`."""
        return (path for path in self._below() if path.match(pattern))

    def _below(self, prefix: str = "") -> list[Self]:
        """Every file and folder below, in order, if its first part begins with `prefix`."""
        files = [type(self)(self.parts[0], key) for key in self._keys(prefix)]
        paths = {path for file in files for path in (file, *file.parents)}
        return sorted(path for path in paths if len(path.parts) > len(self.parts))

    def _keys(self, prefix: str = "") -> list[str]:
        """Keys of every file below, if the first part below begins with `prefix`."""
        with suppress(FileNotFoundError), answering(self):
            return [key for key in self.files.find(self.key, prefix=prefix) if key != self.key]
        return []

    def unlink(self) -> None:
        """Deletes a file, if it is there."""
        with suppress(FileNotFoundError), answering(self):
            self.files.rm_file(self.key)

    def remove_below(self) -> None:
        """Deletes every file below it."""
        if keys := self._keys():
            with answering(self):
                self.files.rm(keys)

    def put(self, sources: Sequence[Path]) -> None:
        """Uploads files into it, each appearing whole, in any order."""
        if not sources:
            return
        try:
            with answering(self):
                keys = [f"{self.key}/{source.name}" for source in sources]
                self.files.put([str(source) for source in sources], keys)
        except FileNotFoundError as error:
            raise StorageError(f"{self}: its bucket must be there, but is gone") from error

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Downloads files of it into a local folder."""
        if names:
            with answering(self):
                keys = [f"{self.key}/{name}" for name in names]
                self.files.get(keys, [str(folder / name) for name in names])

    def write_bytes(self, content: bytes) -> None:
        """Writes a small file whole."""
        with answering(self):
            self.files.pipe_file(self.key, content)


@contextmanager
def opened_to_read(path: Path, size_bytes: int) -> Iterator[Any]:
    """A file to read parts of: one of this machine's, or one in a store of which the size is known.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the store does not answer as it should.
    """
    if remote := stored(path):
        with (
            answering(path),
            remote.files.open(remote.key, size=size_bytes, cache_type="none") as file,
        ):
            yield file
        return
    with path.open("rb") as file:
        yield file


def checked_path(path: Path) -> Path:
    """The path itself.

    Raises:
        ConfigError: no file system has such names.
    """
    whole = os.fsencode(path)
    if max(map(len, whole.split(b"/"))) > 255 or len(whole) > 3000 or b"\0" in whole:
        raise ConfigError(
            f"{str(path)[:60]!r}...: names of files must have at most 255 bytes, paths 3000, and "
            "none a NUL; shorten it"
        )
    return path


def to_path(text: str | Path) -> Path:
    """The path that text names; one in an object store if it is such a URL.

    The first time that a process meets a bucket, it makes sure that it answers.

    >>> to_path("runs/mnist")
    PosixPath('runs/mnist')

    Raises:
        ConfigError: an empty text, or a URL of a kind that is not known, without a bucket, or with
            credentials in it.
        StorageError: the store does not answer, or its client is not installed.
    """
    if text == "":
        raise ConfigError("a path must name a place, but is empty; give a folder such as runs")
    if stored(text) is not None:
        return cast(Path, text)
    url = URL.fullmatch(str(text))
    if url is None or (url["scheme"] not in EXTRAS and len(url["slashes"]) == 1):
        return checked_path(Path(text))
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
