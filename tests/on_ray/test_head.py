"""A driver whose head of Ray has gone, while it waits for an answer of that."""

import signal
import time

import pytest
from processes import finish, lines_until, start

DRIVER = """
import signal
import psutil
import ray
from kd_ray.on_ray import connected
# One that comes before Ray waits would end this script; no handler runs while Ray does.
signal.signal(signal.SIGTERM, lambda number, frame: None)
with connected():
    for process in psutil.Process().children():
        if process.name() == "gcs_server":
            process.kill()
    print("gone", flush=True)
    ray.nodes()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(None, 2), (signal.SIGTERM, 143)])
def test_a_driver_that_waits_for_a_head_that_has_gone_ends_with_a_sentence_and_heeds_signals(
    number: signal.Signals | None, status: int
) -> None:
    driver = start(program=("-c", DRIVER))
    lines_until(driver, "gone")
    since = time.monotonic()
    if number is not None:
        driver.send_signal(number)
    output = finish(driver, status)
    assert "Ray's head, its process gcs_server, must stay alive, but" in output
    assert time.monotonic() - since < 40
