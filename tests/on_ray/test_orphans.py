"""What a killed driver started ends after it; no Ray is started."""

import signal
import subprocess
import sys

import psutil
import pytest

DRIVER = """
import subprocess, sys
from kd_ray.on_ray.orphans import orphans_ended
with orphans_ended():
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, start_new_session=True)
    print(orphan.pid, flush=True)
    sys.stdin.readline()
"""


def driver() -> subprocess.Popen[str]:
    """A driver that ends once it reads a line; its first line is the process that it started."""
    command = [sys.executable, "-c", DRIVER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("killed", [True, False])
def test_processes_of_a_killed_driver_are_ended_and_those_of_another_are_left(killed: bool):
    started = driver()
    assert started.stdout is not None
    orphan = psutil.Process(int(started.stdout.readline()))
    if killed:
        started.kill()
    started.communicate("\n")
    assert started.returncode == (-signal.SIGKILL if killed else 0)
    _, alive = psutil.wait_procs([orphan], timeout=20 if killed else 0)
    assert alive == ([] if killed else [orphan])
    for process in alive:
        process.kill()


def test_a_driver_whose_watcher_was_killed_ends_as_well_as_any():
    started = driver()
    assert started.stdout is not None
    orphan = psutil.Process(int(started.stdout.readline()))
    (watcher,) = (
        child for child in psutil.Process(started.pid).children() if child.pid != orphan.pid
    )
    watcher.kill()
    started.communicate("\n")
    orphan.kill()
    assert started.returncode == 0
