"""Ray's head, which is its process `gcs_server`, and the end of a driver that has lost it.

A call of Ray's that asks the head waits for it, and nothing interrupts that, be it a signal. After
a minute Ray ends the process, with a status and in words of its own, so this project is earlier.
Without the `raylet` of a driver's own Ray such a call may wait for ever: what was asked for is to
begin on a node that no longer is.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from kd_ray.errors import ClusterError
from kd_ray.on_ray.orphans import TAG

CONNECT_S, RETRY_S, LOOK_S = 4.0, 0.5, 2.0
OWN_HEAD_S = 4.0
"""For the head of a driver's own Ray to answer again."""
RAYS_PATIENCE, RAYS_PATIENCE_S = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0
"""Where it is set how long Ray waits for a cluster's head, which may be replaced; the default."""
EARLIER_S, UNWIND_S = 15.0, 8.0
"""By how much this project gives up before Ray; and for who asks by `check_head` to raise, after
which the process is ended that waits inside Ray."""


def living_nodes() -> list[dict[str, Any]]:
    """The connected cluster's living nodes, as Ray describes them; see `check_head` for errors."""
    import ray

    check_head()
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def check_head() -> None:
    """Waits until the connected cluster's head can be asked something.

    Raises:
        ClusterError: it has gone.
    """
    _await(_head(), _patience_s())


def _head() -> str | None:
    """HOST:PORT; None by ray://, where the driver speaks with a server beside the head."""
    import ray

    return getattr(ray.get_runtime_context(), "gcs_address", None)


def has_own_head() -> bool:
    """Whether the connected Ray was started by this driver, or by that of this worker."""
    return TAG in os.environ


def _patience_s() -> float:
    if has_own_head():
        return OWN_HEAD_S
    return float(os.environ.get(RAYS_PATIENCE, RAYS_PATIENCE_S)) - EARLIER_S


def _await(head: str | None, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while head and (silence := silence_at(head)):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{head}: Ray's head, its process gcs_server, must stay alive, but for "
                f"{patience_s:.0f} s nothing has answered there ({silence}); look for a lack of "
                "memory, then run the same again to go on from the last epoch"
            )
        time.sleep(RETRY_S)


def silence_at(address: str) -> str:
    """Why nothing listens at HOST:PORT; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextlib.contextmanager
def head_watched() -> Iterator[None]:
    """Ends this process with a sentence if the head goes in the block and Ray waits for it.

    So it does if the raylet goes of a Ray that is this driver's own. The exit status is 2, or that
    of a signal which came in the block and was not answered.
    """
    over, signals = threading.Event(), _Signals()
    head, patience_s = _head(), _patience_s() + UNWIND_S
    raylets = _own("raylet") if has_own_head() else []

    def watch() -> None:
        while not over.wait(LOOK_S):
            try:
                _await(head, patience_s)
                if any(map(_has_ended, raylets)) and not over.wait(UNWIND_S):
                    raise ClusterError(RAYLET_DIED)
            except ClusterError as error:
                if not over.is_set():
                    os.write(2, f"\nkd-ray: {error}\n".encode())
                    os._exit(signals.status() or 2)

    threading.Thread(target=watch, daemon=True).start()
    with signals.noted():
        try:
            yield
        finally:
            over.set()


RAYLET_DIED = (
    "this machine: Ray's process raylet must stay alive, but it died; look for a lack of memory, "
    "then run the same again to go on from the last epoch"
)


def _own(name: str) -> list[psutil.Process]:
    """Processes of a name that this one has started."""
    return [child for child in psutil.Process().children() if child.name() == name]


def _has_ended(process: psutil.Process) -> bool:
    """Also of one whose parent has not heard of it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class _Signals:
    """What came while no handler of Python's could run, as its main thread was inside Ray."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Notes the signals of the block, in a process's main thread."""
        main = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False) if main else -1
        try:
            yield
        finally:
            if main:
                signal.set_wakeup_fd(before)
            os.close(self._write)
            os.close(self._read)

    def status(self) -> int:
        """The exit status of the last one that ends a process; 0 if there was none."""
        with contextlib.suppress(OSError):
            for number in reversed(os.read(self._read, 4096)):
                if number in (signal.SIGINT, signal.SIGTERM):
                    return 128 + number
        return 0
