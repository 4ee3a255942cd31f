"""The lock of a folder: one process at a time may write a run."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kd_ray.errors import StorageError
from kd_ray.files.commit import writing
from kd_ray.files.lease import in_use, leased
from kd_ray.files.paths import stored


@contextlib.contextmanager
def locked(folder: Path, *, name: str = ".lock", wait_s: float = 0.0) -> Iterator[None]:
    """Holds `folder` for this process; on a disk the kernel lets go of it when the process dies.

    In a store a lease is held instead, which ends some seconds after its holder.

    Args:
        folder: created if absent.
        name: the lock's file name; a driver and its workers hold different ones.
        wait_s: seconds to wait for another holder, such as an orphan that is about to die.

    Raises:
        StorageError: another live process holds it.
    """
    remote = stored(folder)
    if remote is not None:
        with leased(remote, name, wait_s):
            yield
        return
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
                    raise StorageError(in_use(folder, holder)) from None
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
