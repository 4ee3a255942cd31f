"""A driver whose head or whose node of Ray has gone, while it waits for an answer of that."""

import signal
import time

import pytest
from processes import finish, lines_until, start

DRIVER = """
import signal
import psutil
import ray
from kd_ray.on_ray import connected
from kd_ray.on_ray.relay import Mailbox
# One that comes before Ray waits would end this script; no handler runs while Ray does.
signal.signal(signal.SIGTERM, lambda number, frame: None)
with connected():
    started = psutil.Process().children(recursive=True)
    for process in started:
        if "{victim}" in " ".join(process.cmdline()[:1]):
            process.kill()
    psutil.wait_procs([one for one in started if one.name() == "{ends}"], timeout=20)
    print("gone", flush=True)
    {asks}
"""
ASKS_HEAD = DRIVER.format(victim="gcs_server", ends="gcs_server", asks="ray.nodes()")
# An agent whose end is that of the raylet, which takes its leave: nobody tells who asks afterwards.
ASKS_NODE = DRIVER.format(victim="RuntimeEnvAgent", ends="raylet", asks="Mailbox().get()")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(None, 2), (signal.SIGTERM, 143)])
def test_a_driver_that_waits_for_a_head_that_has_gone_ends_with_a_sentence_and_heeds_signals(
    number: signal.Signals | None, status: int
) -> None:
    driver = start(program=("-c", ASKS_HEAD))
    lines_until(driver, "gone")
    since = time.monotonic()
    if number is not None:
        driver.send_signal(number)
    output = finish(driver, status)
    assert "Ray's head, its process gcs_server, must stay alive, but" in output
    assert time.monotonic() - since < 40


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_waits_for_what_its_dead_node_should_begin_ends_with_a_sentence() -> None:
    driver = start(program=("-c", ASKS_NODE))
    lines_until(driver, "gone")
    since = time.monotonic()
    assert "Ray's process raylet must stay alive, but it died" in finish(driver, 2)
    assert time.monotonic() - since < 40
