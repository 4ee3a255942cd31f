"""Atomic commits, copies to read from, and fingerprints.

On a disk every artefact is written under a temporary name in its final directory, synced, and
renamed. To a store it is written in a local folder and uploaded: a file appears there whole, and of
a folder the file that makes it whole is the last to come and the first to go.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kd_ray.errors import KdRayError
from kd_ray.files.lock import check_leases
from kd_ray.files.paths import stored
from kd_ray.files.reading import check_regular
from kd_ray.files.store import writing

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def committed_file(path: Path, option: str = "--runs") -> Iterator[Path]:
    """A local temporary path to write to; it becomes `path` when the block ends without an error.

    Args:
        path: the file.
        option: the one that says where it is.

    Raises:
        StorageError: it cannot be written, or another process has taken the folder over.
    """
    if remote := stored(path):
        with _temporary() as folder, writing(folder, "TMPDIR"):
            yield folder / path.name
            check_leases(remote)
            remote.parent.put([folder / path.name])
        return
    with _draft(path, option) as draft:
        yield draft
        sync(draft)


@contextlib.contextmanager
def committed_folder(path: Path, *, last: str | None = None) -> Iterator[Path]:
    """A local temporary folder to fill; it becomes `path` when the block ends without an error.

    An older folder at `path` is replaced.

    Args:
        path: the folder; only files may be put into it.
        last: name of the file that makes a folder in a store whole; without it, the folder is not
            there for its readers.

    Raises:
        StorageError: it cannot be written, or another process has taken the folder over.
    """
    if remote := stored(path):
        with _temporary() as folder, writing(folder, "TMPDIR"):
            yield folder
            check_leases(remote)
            if remote.is_dir():
                remove_folder(path, last)
            remote.put(sorted(file for file in folder.iterdir() if file.name != last))
            remote.put([folder / last] if last is not None else [])
        return
    with _draft(path) as draft:
        draft.mkdir()
        yield draft
        for file in draft.iterdir():
            sync(file)
        sync(draft)


@contextlib.contextmanager
def _temporary(home: Path | None = None, prefix: str = "kd-ray-") -> Iterator[Path]:
    """A folder that is gone afterwards; without a `home`, among this machine's temporary files."""
    with writing(home, "--runs") if home else writing("temporary files", "TMPDIR"):
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=home, ignore_cleanup_errors=True)
    with made as folder:
        yield Path(folder)


@contextlib.contextmanager
def _draft(path: Path, option: str = "--runs") -> Iterator[Path]:
    """The temporary path that becomes `path`; nothing is left of it after an error."""
    draft = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path, option):
        path.parent.mkdir(parents=True, exist_ok=True)
        _discard(draft)
        try:
            yield draft
            old = _set_aside(path) if draft.is_dir() and path.is_dir() else None
            os.replace(draft, path)
            sync(path.parent)
        finally:
            _discard(draft)
        if old is not None:
            _discard(old)


def _set_aside(path: Path) -> Path:
    """Makes a draft of a folder that is to go: what is half deleted would else look whole."""
    old = path.with_name(f"{TEMPORARY}{os.getpid()}-old-{path.name}")
    _discard(old)
    os.replace(path, old)
    return old


def _discard(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def remove_folder(path: Path, last: str | None = None) -> None:
    """Deletes a folder of files; in a store, the file that makes it whole goes first."""
    remote = stored(path)
    if remote is None:
        with writing(path):
            _discard(_set_aside(path))
        return
    check_leases(remote)
    if last is not None:
        (remote / last).unlink()
    remote.remove_below()


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Commits `value` as readable JSON; NaN and infinities are refused by the encoder."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with committed_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Hex sha256 of the bytes of a local file."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def local_copies(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A local folder with those of the named files that are there: itself, or copies from a store.

    An error that is raised in the block names the place and not the copy.
    """
    remote = stored(folder)
    if remote is None:
        yield folder
        return
    with _temporary() as temporary:
        there = {path.name for path in remote.glob("*")} if len(names) > 1 else set(names)
        with writing(temporary, "TMPDIR"), contextlib.suppress(FileNotFoundError):
            remote.get([name for name in names if name in there], temporary)
        try:
            yield temporary
        except KdRayError as error:
            raise type(error)(str(error).replace(str(temporary), str(remote))) from error


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A local file with the bytes of one that may lie in a store; see `local_copies`."""
    with local_copies(path.parent, [path.name]) as folder:
        yield folder / path.name


@contextlib.contextmanager
def scratch_folder(path: Path, name: str) -> Iterator[Path]:
    """A local folder for what is thrown away: below `path`, or of this machine if that is stored.

    Its own name begins as a draft's and has `name`, what it is for, in it.
    """
    with _temporary(None if stored(path) else path, f"{TEMPORARY}{name}-") as folder:
        yield folder


def remove_drafts(folder: Path) -> None:
    """Deletes what killed processes left half-written directly below `folder`.

    In a store there is nothing: drafts are local, and a folder without its last file is not there.
    """
    with writing(folder):
        for draft in () if stored(folder) else folder.glob(f"{TEMPORARY}*"):
            _discard(draft)
