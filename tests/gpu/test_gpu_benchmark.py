"""The benchmark of a GPU runs, which is seen on the CPU, and needs few packages."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
NOT_NEEDED = (
    *("ray", "optuna", "rich", "typer", "sklearn", "scipy", "matplotlib", "tomli_w", "psutil"),
    *("hypothesis", "xdist"),
)
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys({names}))
runpy.run_path({script!r})
"""


def test_the_benchmark_imports_no_more_than_a_bare_machine_has():
    code = WITHOUT.format(names=NOT_NEEDED, script=str(SCRIPT))
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_benchmark_and_the_tests_of_a_device_run_on_the_cpu():
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "W2 A2, labelling: transfer set, views" in answer.stdout
    assert "pytest -m gpu" in answer.stdout.splitlines()[-1]
    assert " passed" in answer.stdout.splitlines()[-1]
