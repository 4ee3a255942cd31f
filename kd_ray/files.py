"""Files that are either whole or not there: atomic commits, fingerprints and the lock of a folder.

Every artefact is written under a temporary name in its final directory, synced, and renamed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray.errors import StorageError

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an operating-system error while writing `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, or choose another folder with --runs; then run the same again"
        else:
            hint = "make the folder writable, or choose another one with --runs"
        reason = error.strerror or str(error)
        raise StorageError(f"{path}: cannot be written ({reason}); {hint}") from error


@contextlib.contextmanager
def committed_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` when the block ends without an error."""
    draft = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            sync(draft)
            os.replace(draft, path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def committed_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` when the block ends without an error.

    An older folder at `path` is replaced.
    """
    draft = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            for file in draft.iterdir():
                sync(file)
            sync(draft)
            if path.exists():
                shutil.rmtree(path)
            os.replace(draft, path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


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
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_drafts(folder: Path) -> None:
    """Deletes what killed processes left half-written directly below `folder`."""
    for draft in folder.glob(f"{TEMPORARY}*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, *, name: str = ".lock", wait_s: float = 0.0) -> Iterator[None]:
    """Holds `folder` for this process; the kernel lets go of it when the process dies.

    Args:
        folder: created if absent.
        name: the lock's file name; a driver and its workers hold different ones.
        wait_s: seconds to wait for another holder, such as an orphan that is about to die.

    Raises:
        StorageError: another live process holds it.
    """
    path = folder / name
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(handle, 32, 0).decode().strip() or "unknown"
                    raise StorageError(
                        f"{folder}: one process at a time may write a run folder, but process "
                        f"{holder} is using it; wait for it, end it, or choose another name "
                        "with --set name=..."
                    ) from None
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
