"""`kd-ray` commands as processes forked from this one, which has torch loaded already.

A command that is forked starts in milliseconds, so that thousands can be tried. It has a session,
an output file and an environment of its own, and runs `kd_ray.cli.main` as the executable does.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

TAG = "KD_RAY_CAMPAIGN"
"""Variable of the environment by which a command's processes are known, those of Ray included."""

POLL_S = 0.005


def load() -> None:
    """Imports what commands need, once; Ray is left out, since it cannot be forked."""
    import alembic.command
    import optuna.visualization.matplotlib
    import sklearn.datasets
    import torch
    import torchvision

    import kd_ray.cli.display
    import kd_ray.cli.sweep
    import kd_ray.report.page

    assert all((alembic, optuna, sklearn, torchvision, kd_ray.cli.sweep, kd_ray.report))
    torch.set_num_threads(1)
    kd_ray.cli.display.LINE_EVERY_S = 0.0  # a line for each event: moments to kill at
    perform("check", "quickstart")


def perform(*arguments: str) -> None:
    """Runs a command in this process, so that whatever it loads is loaded for those forked later.

    Raises:
        RuntimeError: it did not end with 0.
    """
    from typer.testing import CliRunner

    from kd_ray.cli import app

    answer = CliRunner().invoke(app, arguments)
    if answer.exit_code != 0:
        raise RuntimeError(f"kd-ray {' '.join(arguments)}: {answer.output}") from answer.exception


def fork(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    folder: Path = Path(),
    memory_bytes: int | None = None,
    real: bool = False,
) -> int:
    """Starts a command.

    Args:
        arguments: of `kd-ray`.
        log: file for all it prints; begun anew.
        environment: variables added to this process's.
        folder: the one that it works in.
        memory_bytes: address space that it may have; None for no bound.
        real: whether it becomes the executable, which imports everything anew.

    Returns:
        Its process number, which is that of its session and group too.
    """
    child = os.fork()
    if child:
        return child
    status = 70  # of a fault of the campaign's own
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(environment)
        os.chdir(folder)
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        if real:
            os.execv(sys.executable, [sys.executable, "-m", "kd_ray", *arguments])
        sys.argv = ["kd-ray", *arguments]
        status = _main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main() -> int:
    """The exit status of the command, a traceback printed as the interpreter would."""
    from kd_ray.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@dataclass
class Command:
    """A running command, of which this process is the parent."""

    pid: int
    log: Path
    tags: set[str]
    status: int | None = None

    def ended(self) -> bool:
        """Whether it has ended; then `status` says how, negative for a signal."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def output(self) -> str:
        """All it printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, limit_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits for its end or for something else; False if neither came within the limit."""
        deadline = time.monotonic() + limit_s
        while not (self.ended() or until()):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def family(self) -> list[psutil.Process]:
        """Its living processes: those that carry one of its tags, and itself."""
        return [p for p in living() if p.pid == self.pid or tag_of(p) in self.tags]

    def kill_family(self) -> None:
        """Ends whatever is left of it."""
        for process in self.family():
            process.kill()
        self.wait(5.0)


def living() -> list[psutil.Process]:
    """Every process that runs."""
    every = psutil.process_iter(["status", "cmdline"])
    return [process for process in every if process.info["status"] != psutil.STATUS_ZOMBIE]


def tag_of(process: psutil.Process) -> str | None:
    """The tag that a process was started with; None for others' and for those that are gone."""
    try:
        return process.environ().get(TAG)
    except psutil.Error:
        return None
