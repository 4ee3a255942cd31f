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


@pytest.mark.parametrize("killed", [True, False])
def test_processes_of_a_killed_driver_are_ended_and_those_of_another_are_left(killed: bool):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    orphan = psutil.Process(int(driver.stdout.readline()))
    if killed:
        driver.kill()
    driver.communicate("\n")
    assert driver.returncode == (-signal.SIGKILL if killed else 0)
    _, alive = psutil.wait_procs([orphan], timeout=20 if killed else 0)
    assert alive == ([] if killed else [orphan])
    for process in alive:
        process.kill()
