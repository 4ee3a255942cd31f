"""The lock of a folder: one process at a time may write a run.

In a store, where no kernel lets go of the lock of a process that died, it is a lease: the holder
shows a sign of life every few seconds. One that has shown none while another process watched for
long enough counts as dead; no clocks are compared. A dead one of this machine is known at once.
"""

import contextlib
import fcntl
import json
import os
import random
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from kd_ray.errors import StorageError
from kd_ray.files.paths import StoredPath, stored
from kd_ray.files.store import writing

RENEW_S = 4.0
LEASE_S = 20.0
"""Seconds without a sign of life after which a holder counts as dead: several may be lost."""
WATCH_S = 0.25
SIGN = ".sign"

_held: list["Lease"] = []

Claims = Mapping[StoredPath, tuple[bytes, bytes]]
"""File of a claim -> who made it, and the latest sign of life."""


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
        with writing(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


class Lease:
    """A claim of this process on a folder of a store, and a thread that shows signs of life.

    Whoever wants the folder writes a claim, a file of its own, and then looks for others; who sees
    one that lives withdraws. Of two, the one that writes later sees the other's, so they never both
    have the folder, however slow one is. Of a store this needs nothing but that a listing has all
    that was written before: some have no conditional writes, or ignore the condition. A claim is
    never written again, so that a holder which was taken for dead finds its own gone.
    """

    def __init__(self, folder: StoredPath, name: str) -> None:
        """A lease that is not taken yet; names of its files begin with `name`."""
        self.folder, self._name = folder, name
        self._path = folder / f"{name}-{secrets.token_hex(8)}"
        self._signs = count(1)
        self._shown = time.monotonic()
        self._is_lost = False
        self._over = threading.Event()
        self._turn = threading.Lock()

    def claims(self) -> Claims:
        """The claims of others on the folder."""
        there, found = set(self.folder.glob(f"{self._name}*")), {}
        for path in there - {self._path}:
            if path.suffix != SIGN and (claim := _content(path)):
                sign = path.with_suffix(SIGN)
                found[path] = claim, _content(sign) if sign in there else b""
        return found

    def take(self, dead: Claims) -> bool:
        """Whether the folder is this process's now: nobody lives who has a claim on it, too.

        Args:
            dead: claims of dead processes, which count for nothing as long as they do not change.
        """
        self._shown = time.monotonic()
        self._path.write_bytes(json.dumps(_this_process()).encode())
        if all(dead.get(path) == contents for path, contents in self.claims().items()):
            _remove(*dead)
            return True
        _remove(self._path)
        return False

    def renew(self) -> None:
        """Shows that this process lives.

        Raises:
            StorageError: another process has the folder now, or the store does not answer.
        """
        with self._turn:
            if self._over.is_set():
                return
            began = time.monotonic()
            self._is_lost = self._is_lost or not self._path.is_file()
            if self._is_lost:
                raise StorageError(
                    f"{self.folder}: one process at a time may write a run folder, but another "
                    "took it over while this one did not answer; run the same again when that one "
                    "has ended"
                )
            self._path.with_suffix(SIGN).write_bytes(str(next(self._signs)).encode())
            self._shown = began

    def keep(self) -> None:
        """Renews until it is let go or lost; a store that is silent for a while is asked again."""
        while not self._over.wait(RENEW_S) and not self._is_lost:
            with contextlib.suppress(StorageError):
                self.renew()

    def check(self) -> None:
        """Makes sure, before something is written, that the folder is still this process's."""
        if self._is_lost or time.monotonic() - self._shown > LEASE_S / 2:
            self.renew()

    def release(self) -> None:
        """Lets go of the folder."""
        self._over.set()
        with self._turn, contextlib.suppress(StorageError):
            _remove(self._path)


def _content(path: StoredPath) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _remove(*claims: StoredPath) -> None:
    for path in claims:
        path.unlink()
        path.with_suffix(SIGN).unlink()


def check_leases(path: StoredPath) -> None:
    """Refuses to write below a folder that this process held and has lost.

    Raises:
        StorageError: another process has it now.
    """
    for lease in list(_held):
        if path.is_relative_to(lease.folder):
            lease.check()


@contextlib.contextmanager
def leased(folder: StoredPath, name: str, wait_s: float) -> Iterator[None]:
    """Holds a folder for this process; see `locked`."""
    lease = Lease(folder, name)
    try:
        _acquire(lease, wait_s)
        _held.append(lease)
        threading.Thread(target=lease.keep, name=f"lease of {folder}", daemon=True).start()
        yield
    finally:
        if lease in _held:
            _held.remove(lease)
        lease.release()


def _acquire(lease: Lease, wait_s: float) -> None:
    """Takes a lease that is free, or whose holder is dead.

    Raises:
        StorageError: its holder lives, and does not let go of it within `wait_s` seconds.
    """
    began, warned = time.monotonic(), False
    seen: dict[StoredPath, tuple[tuple[bytes, bytes], float, bool]] = {}
    while True:
        claims, dead = lease.claims(), {}
        now = time.monotonic()
        for path, signs in claims.items():
            before, since, shown = seen.get(path, (signs, now, False))
            if signs != before:
                since, shown = now, True
            seen[path] = signs, since, shown
            holder = _holder(signs[0])
            lives = _lives_here(holder)
            name = f"{holder.get('pid', 'unknown')} on {holder.get('host', 'unknown')}"
            if lives is False or now - since >= LEASE_S:
                dead[path] = signs
            elif (lives or shown) and now - began >= wait_s:
                raise StorageError(in_use(lease.folder, name))
            elif lives is None and not warned:
                warned = True
                warnings.warn(
                    f"{lease.folder}: process {name} used it and did not say that it has ended; "
                    f"waiting up to {LEASE_S:.0f} s for a sign of it",
                    stacklevel=4,
                )
        if len(dead) == len(claims) and lease.take(dead):
            return
        time.sleep(WATCH_S * random.uniform(0.5, 1.5))  # two that withdrew do not meet again


def in_use(folder: object, holder: str) -> str:
    """The message for the process that comes second."""
    return (
        f"{folder}: one process at a time may write a run folder, but process {holder} is using "
        "it; wait for it, end it, or choose another name with --set name=..."
    )


def _holder(claim: bytes) -> dict[str, Any]:
    try:
        found = json.loads(claim)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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


def _lives_here(holder: dict[str, Any]) -> bool | None:
    """Whether a holder on this machine lives; None of one elsewhere."""
    machine, pid = _machine(), holder.get("pid")
    if not machine or holder.get("machine") != machine or not isinstance(pid, int):
        return None
    return _began(pid) is not None and _began(pid) == holder.get("began")
