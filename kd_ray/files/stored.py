"""A path in an object store, with as much of `pathlib.Path` as is used here.

Unlike other such classes it never takes a store's failure for the absence of a file: a checkpoint
that seems to be missing would be trained anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from kd_ray.errors import StorageError
from kd_ray.files.store import answering, store


class StoredPath:
    """`scheme://bucket/key`; what lies below it is looked up anew at every call.

    A folder is there as long as something lies in it.
    """

    __slots__ = ("_path", "_scheme")

    def __init__(self, scheme: str, path: PurePosixPath) -> None:
        """A path whose first part is the bucket."""
        self._scheme = scheme
        self._path = path

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    def __repr__(self) -> str:
        return f"StoredPath({str(self)!r})"

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPath) and str(self) == str(other)

    def __lt__(self, other: "StoredPath") -> bool:
        return self.parts < other.parts

    def __truediv__(self, name: str | PurePosixPath) -> "StoredPath":
        return self._at(self._path / name)

    def _at(self, path: PurePosixPath) -> "StoredPath":
        return StoredPath(self._scheme, path)

    @property
    def key(self) -> str:
        """The path as the clients want it: bucket, slash, key."""
        return str(self._path)

    @property
    def files(self) -> Any:
        """The fsspec filesystem that it lies in."""
        return store(self._scheme)

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket, and the parts of the key."""
        return self._path.parts

    @property
    def parent(self) -> "StoredPath":
        """The folder that it lies in."""
        return self._at(self._path.parent)

    def with_name(self, name: str) -> "StoredPath":
        """The path beside it of that name."""
        return self._at(self._path.with_name(name))

    def relative_to(self, other: "StoredPath") -> PurePosixPath:
        """The way from a folder above it.

        Raises:
            ValueError: it does not lie below that folder.
        """
        if self._scheme != other._scheme:
            raise ValueError(f"{self} does not lie below {other}")
        return self._path.relative_to(other._path)

    def absolute(self) -> "StoredPath":
        """The path itself."""
        return self

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing; a store has no empty folders."""

    def stat(self) -> SimpleNamespace:
        """The size of the file in bytes, as `st_size`.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the store does not answer.
        """
        found = self._info()
        if found is None or found["type"] != "file":
            raise FileNotFoundError(str(self))
        return SimpleNamespace(st_size=found["size"])

    def exists(self) -> bool:
        """Whether it is a file, or a folder with something in it."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether it is a file."""
        found = self._info()
        return found is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        """Whether something lies below it."""
        found = self._info()
        return found is not None and found["type"] == "directory"

    def _info(self) -> dict[str, Any] | None:
        try:
            with answering(self):
                return dict(self.files.info(self.key))
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the store does not answer.
        """
        with answering(self):
            return bytes(self.files.cat_file(self.key))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The text of a file; see `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> Iterator["StoredPath"]:
        """Files and folders below that match, in order; `*` stays within a name.

        Raises:
            StorageError: the store does not answer.
        """
        wanted = pattern.split("/")
        fixed = next(at for at, part in enumerate([*wanted, "*"]) if "*" in part)
        start = self._at(self._path.joinpath(*wanted[: min(fixed, len(wanted) - 1)]))
        prefix = wanted[fixed].partition("*")[0] if fixed < len(wanted) else wanted[-1]
        found = (path[: len(wanted)] for path in self._below(start, prefix))
        yield from self._each(path for path in found if _fits(path, wanted))

    def rglob(self, pattern: str) -> Iterator["StoredPath"]:
        """Files and folders at any depth whose last parts match, in order; see `glob`."""
        wanted = pattern.split("/")
        yield from self._each(
            path[:end]
            for path in self._below(self, "")
            for end in range(len(wanted), len(path) + 1)
            if _fits(path[end - len(wanted) : end], wanted)
        )

    def _each(self, found: Iterable[Sequence[str]]) -> Iterator["StoredPath"]:
        for parts in sorted({tuple(path) for path in found}):
            yield self._at(self._path.joinpath(*parts))

    def _below(self, start: "StoredPath", prefix: str) -> list[tuple[str, ...]]:
        """Parts, from here, of every file below `start` whose next part begins with `prefix`."""
        try:
            with answering(self):
                keys = self.files.find(start.key, prefix=prefix)
        except FileNotFoundError:
            return []
        depth = len(self.parts)
        return [PurePosixPath(key).parts[depth:] for key in keys if key != start.key]

    def unlink(self) -> None:
        """Deletes a file, if it is there."""
        with suppress(FileNotFoundError), answering(self):
            self.files.rm_file(self.key)

    def remove_below(self) -> None:
        """Deletes every file below it."""
        keys = ["/".join((self.key, *parts)) for parts in self._below(self, "")]
        if keys:
            with answering(self):
                self.files.rm(keys)

    def put(self, sources: Sequence[Path]) -> None:
        """Uploads files into it, each appearing whole, in any order.

        Raises:
            StorageError: the store does not take them.
        """
        try:
            with answering(self):
                keys = [f"{self.key}/{source.name}" for source in sources]
                self.files.put([str(source) for source in sources], keys)
        except FileNotFoundError as error:
            raise StorageError(f"{self}: its bucket must be there, but is gone") from error

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Downloads files of it into a local folder.

        Raises:
            FileNotFoundError: one is not there.
            StorageError: the store does not answer.
        """
        if names:
            with answering(self):
                keys = [f"{self.key}/{name}" for name in names]
                self.files.get(keys, [str(folder / name) for name in names])

    def write_bytes(self, content: bytes, *, anew: bool = False) -> None:
        """Writes a small file whole.

        Args:
            content: bytes of the file.
            anew: only if there is none, as far as the store can tell.

        Raises:
            FileExistsError: `anew`, and there is one.
            StorageError: the store does not take it.
        """
        with answering(self):
            self.files.pipe_file(self.key, content, mode="create" if anew else "overwrite")


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
