"""Nothing of a driver's own Ray outlives the driver for long, even if that is killed.

Ray's processes look after their parents, but an agent that starts while they die waits for minutes.
As a program, this is the process that outlives the driver; it imports nothing of this package.
"""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator

import psutil

TAG = "KD_RAY_DRIVER"
GRACE_S = 4.0
"""For Ray's processes to end by themselves; then those are killed that are left, or came late."""


@contextlib.contextmanager
def orphans_ended() -> Iterator[None]:
    """Processes that the block starts are tagged, and killed if this one cannot end them."""
    tag = os.environ[TAG] = uuid.uuid4().hex
    command = [sys.executable, "-P", __file__, tag]  # -P: the modules beside it are not for it
    hears, speaks = os.pipe()
    # Who reads what the driver prints does not wait for this one.
    out, err = ((os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2))
    files = [(os.POSIX_SPAWN_DUP2, hears, 0), out, err]
    watcher = os.posix_spawn(command[0], command, os.environ, file_actions=files, setsid=True)
    os.close(hears)
    try:
        yield
    finally:
        os.environ.pop(TAG, None)
    # After an error Ray may be half begun, and so is watched until this process ends.
    with contextlib.suppress(BrokenPipeError):  # where the watcher was killed, nobody listens
        os.write(speaks, b"ended")
    os.close(speaks)
    os.waitpid(watcher, 0)


def end_orphans(tag: str) -> None:
    """Waits for the driver's word or end, and kills what it left if it said nothing."""
    if sys.stdin.buffer.read():
        return
    left = True
    while left:
        time.sleep(GRACE_S)
        left = False
        for process in psutil.process_iter(["environ"]):
            tags = process.info["environ"] or {}  # none of another user's
            if tags.get(TAG) == tag and process.pid != os.getpid():
                left = True
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


if __name__ == "__main__":
    end_orphans(sys.argv[1])
