"""The lock of a folder: one process at a time may write a run.

In a store, where no kernel lets go of the lock of a process that died, it is a lease: the holder
writes a small file anew every few seconds. One that has not changed while another process watched
it for long enough has no holder any more; no clocks are compared. A dead holder that was on this
machine is known at once.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray.errors import StorageError
from kd_ray.files.paths import StoredPath, stored
from kd_ray.files.store import writing

RENEW_S = 4.0
LEASE_S = 20.0
"""Seconds without a change after which a holder counts as dead: several renewals may fail."""
SETTLE_S = 0.5
WATCH_S = 0.25

_held: list["Lease"] = []


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
    if remote := stored(folder):
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


class Lease:
    """A lease that this process holds, renewed by a thread."""

    def __init__(self, path: StoredPath) -> None:
        """A lease in the file at `path`, not yet taken."""
        self.path = path
        self._token = secrets.token_hex(8)
        self._beat = 0
        self._renewed = time.monotonic()
        self._is_lost = False
        self._over = threading.Event()
        self._turn = threading.Lock()

    def take(self, *, anew: bool) -> bool:
        """Writes itself, over whatever is there unless `anew`; says whether it has the folder."""
        try:
            self._write(anew=anew)
        except FileExistsError:
            return False
        if not anew:  # two may take over from the same dead holder, and the last one has it
            time.sleep(SETTLE_S)
            return self._is_mine()
        return True

    def _write(self, *, anew: bool = False) -> None:
        self._beat += 1
        content = json.dumps({**_this_process(), "token": self._token, "beat": self._beat}).encode()
        try:
            self.path.write_bytes(content, anew=anew)
        except StorageError as error:
            number = getattr(error.__cause__, "errno", None) if anew else None
            if number in (errno.EBUSY, errno.EINVAL):  # stores differ in how they say so
                raise FileExistsError(str(self.path)) from error
            if number != errno.ENOSYS:
                raise
            self.path.write_bytes(content)  # a store that cannot create exclusively
        self._renewed = time.monotonic()

    def _is_mine(self) -> bool:
        found = read_lease(self.path)
        return found is None or found.get("token") == self._token

    def renew(self) -> None:
        """Shows that this process lives.

        Raises:
            StorageError: another process has the folder now, or the store does not answer.
        """
        with self._turn:
            if self._over.is_set():
                return
            self._is_lost = self._is_lost or not self._is_mine()
            if self._is_lost:
                raise StorageError(
                    f"{self.path.parent}: one process at a time may write a run folder, but "
                    "another took it over while this one did not answer; run the same again when "
                    "that one has ended"
                )
            self._write()

    def keep(self) -> None:
        """Renews until it is let go or lost; a store that is silent for a while is asked again."""
        while not self._over.wait(RENEW_S) and not self._is_lost:
            with contextlib.suppress(StorageError):
                self.renew()

    def check(self) -> None:
        """Makes sure, before something is written, that the folder is still this process's."""
        if self._is_lost or time.monotonic() - self._renewed > LEASE_S / 2:
            self.renew()

    def release(self) -> None:
        """Lets go of the folder."""
        self._over.set()
        with self._turn, contextlib.suppress(StorageError):
            if self._is_mine():
                self.path.unlink()


def check_leases(path: StoredPath) -> None:
    """Refuses to write below a folder that this process held and has lost.

    Raises:
        StorageError: another process has it now.
    """
    for lease in list(_held):
        if path.is_relative_to(lease.path.parent):
            lease.check()


@contextlib.contextmanager
def leased(folder: StoredPath, name: str, wait_s: float) -> Iterator[None]:
    """Holds a folder for this process; see `locked`."""
    lease = Lease(folder / name)
    _acquire(lease, wait_s)
    _held.append(lease)
    thread = threading.Thread(target=lease.keep, name=f"lease of {folder}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        _held.remove(lease)
        lease.release()


def _acquire(lease: Lease, wait_s: float) -> None:
    """Takes a lease that is free, or whose holder is dead.

    Raises:
        StorageError: its holder lives, and does not let go of it within `wait_s` seconds.
    """
    folder, seen = lease.path.parent, None
    began = since = time.monotonic()
    renewed = warned = False
    while True:
        found = read_lease(lease.path)
        now = time.monotonic()
        if found is None:
            if lease.take(anew=True):
                return
            continue
        if found != seen:
            renewed = seen is not None and found.get("token") == seen.get("token")
            seen, since = found, now
        lives = _lives_here(found)
        if lives is False or now - since >= LEASE_S:
            if lease.take(anew=False):
                return
            seen, renewed = None, False
        elif (lives or renewed) and now - began >= wait_s:
            raise StorageError(in_use(folder, _holder(found)))
        elif lives is None and not warned:
            warned = True
            warnings.warn(
                f"{folder}: process {_holder(found)} used it and did not say that it has ended; "
                f"waiting up to {LEASE_S:.0f} s for a sign of it",
                stacklevel=4,
            )
        time.sleep(WATCH_S)


def in_use(folder: object, holder: str) -> str:
    """The message for the process that comes second."""
    return (
        f"{folder}: one process at a time may write a run folder, but process {holder} is using "
        "it; wait for it, end it, or choose another name with --set name=..."
    )


def read_lease(path: StoredPath) -> dict[str, Any] | None:
    """The content that the holder has written, or None if there is no holder."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return dict(json.loads(content))
    except ValueError:
        return {"token": content.hex()}


def _holder(found: dict[str, Any]) -> str:
    return f"{found.get('pid', 'unknown')} on {found.get('host', 'unknown')}"


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "machine": _machine(), "began": _began(pid)}


def _machine() -> str:
    """A text for this machine, this boot of it, and this container, where processes are counted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process of this machine began, in its own units; None of one that is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _lives_here(found: dict[str, Any]) -> bool | None:
    """Whether a holder on this machine lives; None of one elsewhere."""
    machine = _machine()
    if not machine or found.get("machine") != machine:
        return None
    return bool(_began(int(found["pid"])) == found["began"])
