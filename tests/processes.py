"""Commands in processes of their own, as a user types them: started, watched and killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import environ
from pathlib import Path

DEADLINE_S = 400.0
POLL_S = 0.02
KD_RAY = ("-m", "kd_ray")
HOLD = """
import sys
from kd_ray.files import locked, to_path
with locked(to_path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def kd_ray(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with some variables of the environment changed."""
    return subprocess.run(
        [sys.executable, *KD_RAY, *map(str, arguments)],
        env={**environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def start(
    *arguments: object, program: Sequence[str] = KD_RAY, **environment: str
) -> subprocess.Popen[str]:
    """Starts a command, or another program of Python, which a signal reaches alone."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        env={**environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Waits for a process's end, with the exit status that it must have; what it printed."""
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, output
    return output


def lines_until(process: subprocess.Popen[str], words: str) -> str:
    """Reads a process's output up to the line that has `words` in it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} was never printed, only:\n{seen}")


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Asks until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(POLL_S)


def signal_when(
    process: subprocess.Popen[str], number: signal.Signals, moment: Callable[[], bool]
) -> None:
    """Sends a signal to a process that must still run when the moment comes."""

    def come() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return moment()

    wait_for("the moment", come)
    process.send_signal(number)


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process as `kill -9` does."""
    process.kill()
    finish(process, -signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    """Process numbers below `pid`, as the kernel knows them."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def workers(driver: subprocess.Popen[str], *names: bytes) -> list[int]:
    """Process numbers of Ray's workers of some classes below a driver."""
    found = []
    for child in descendants(driver.pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if any(name in title for name in names):
            found.append(child)
    return found


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A live process that holds the lock of a folder."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
