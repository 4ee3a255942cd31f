"""Ctrl-C, and the SIGTERM of supervisors."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from processes import finish, lines_until, start
from tiny import tiny_file
from typer.testing import CliRunner

from kd_ray.cli.options import answered, received, terminate

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture
def terminated() -> Iterator[None]:
    """SIGTERM as the executable answers it."""
    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)
    received.clear()


@pytest.mark.usefixtures("terminated")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_is_answered_with_how_to_go_on_and_the_code_that_shells_expect(
    number: signal.Signals, code: int
):
    tool = typer.Typer()

    @tool.command()
    @answered
    def command() -> None:
        os.kill(os.getpid(), number)

    answer = CliRunner().invoke(tool, [])
    assert answer.exit_code == code
    assert "kd-ray: interrupted; finished epochs and shards are kept, go on with: " in answer.stderr


@pytest.mark.slow
def test_a_run_in_this_process_that_is_terminated_says_how_to_go_on(tmp_path: Path):
    recipe = tiny_file(tmp_path, "teacher.train.epochs=5000")
    process = start("teach", recipe, "--local", "--runs", tmp_path)
    lines_until(process, "teacher 0: epoch")
    process.terminate()
    output = finish(process, 143)
    assert "go on with: kd-ray teach" in output
    assert "Traceback" not in output
