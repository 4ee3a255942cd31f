"""Real Ray, real processes: the same weights as without it, and as without being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kd_ray import run
from kd_ray.config import Resources
from kd_ray.errors import ClusterError
from kd_ray.on_ray import Node, Placement, share_out
from kd_ray.result import read_result

RECIPE = """
name = "tiny"
[data]
name = "digits"
validation = 100
[teacher]
model = { name = "mlp", hidden = [64], dropout = [0.1, 0.2] }
[teacher.train]
epochs = EPOCHS
batch_size = 64
schedule = "one-cycle"
augment = { shift = 1 }
[transfer_set]
shard_rows = 300
[student]
model = { name = "convnet", groups = [[4], [8]] }
[student.quantizer]
method = "lsq"
weight_bits = 2
activation_bits = 2
[train]
epochs = EPOCHS
optimizer = "sgd"
lr = 0.02
keep = "best"
[resources]
cpus_per_worker = 1
"""
DEADLINE_S = 150.0


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[int], Path]:
    """Writes the tiny recipe with a number of epochs."""

    def written(epochs: int) -> Path:
        path = tmp_path / f"tiny-{epochs}.toml"
        path.write_text(RECIPE.replace("EPOCHS", str(epochs)))
        return path

    return written


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kd_ray", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that a signal reaches this process alone
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=DEADLINE_S)
    return output


def lines_until(process: subprocess.Popen[str], words: str) -> str:
    """Reads a process's output up to the line that has `words` in it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    pytest.fail(f"{words!r} was never printed, only:\n{seen}")


def artefacts(folder: Path) -> dict[str, object]:
    """What two runs must agree on, bit for bit."""
    manifest = json.loads((folder / "transfer_set" / "manifest.json").read_text())
    hashes: dict[str, object] = {"transfer set": manifest["files"]}
    for file in sorted(folder.rglob("result.json")):
        result = read_result(file.parent)
        if result is not None and result.stage != "label":
            hashes[result.title] = result.weights_sha256
    assert len(hashes) == 4
    return hashes


def descendants(pid: int) -> Iterator[int]:
    """Process numbers below `pid`, as the kernel knows them."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from descendants(child)


def train_workers(pid: int) -> list[int]:
    """Ray Train's workers below a driver."""
    return workers(pid, b"RayTrainWorker")


def workers(pid: int, named: bytes) -> list[int]:
    """Ray's workers of a class below a driver."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if named in title:
            found.append(child)
    return found


def test_share_out_gives_every_worker_as_many_cpus_as_fit_on_the_nodes() -> None:
    assert share_out(Resources(workers=2), [Node(4)]) == Placement(2, 2, 0)
    assert share_out(Resources(workers=2), [Node(4), Node(1)]) == Placement(2, 2, 0)
    assert share_out(Resources(workers=3), [Node(4, 2), Node(2, 1)]) == Placement(3, 2, 1)
    assert share_out(Resources(workers=1, gpus_per_worker=0), [Node(4, 2)]) == Placement(1, 4, 0)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(workers=5), "5 workers with 1 CPU each need 5 CPUs, but there are 4"),
        (Resources(workers=2, cpus_per_worker=3), "2 workers with 3 CPU each need 6 CPUs"),
        (Resources(workers=2, gpus_per_worker=1), "2 workers with 1 GPU each need 2 GPUs"),
    ],
)
def test_share_out_refuses_more_than_there_is(resources: Resources, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        share_out(resources, [Node(4, 1)])


@pytest.mark.ray
def test_one_ray_worker_makes_the_same_bits_as_this_process(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    path = recipe(3)
    process = start("run", path, "--runs", tmp_path / "ray")
    output = finish(process)
    assert process.returncode == 0, output
    run(path, runs=tmp_path / "local", local=True)
    assert artefacts(tmp_path / "ray" / "tiny") == artefacts(tmp_path / "local" / "tiny")
    noise = [line for line in output.splitlines() if "pid=" in line or "WARNING" in line]
    assert not noise


@pytest.mark.ray
def test_an_interrupted_and_then_killed_driver_leaves_a_run_that_ends_with_the_same_bits(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    path = recipe(40)
    run(path, runs=tmp_path / "whole", local=True)

    interrupted = start("run", path, "--runs", tmp_path)
    lines_until(interrupted, "teacher 0: epoch")
    interrupted.send_signal(signal.SIGINT)
    output = finish(interrupted)
    assert interrupted.returncode == 130, output
    assert "go on with: kd-ray run" in output
    assert "Traceback" not in output

    killed = start("run", path, "--runs", tmp_path)
    seen = lines_until(killed, "student labels, seed 0: epoch")
    assert "goes on after epoch" in seen
    killed.kill()
    finish(killed)

    resumed = start("run", path, "--runs", tmp_path)
    output = finish(resumed)
    assert resumed.returncode == 0, output
    assert "teacher 0: was finished" in output
    assert artefacts(tmp_path / "tiny") == artefacts(tmp_path / "whole" / "tiny")


@pytest.mark.ray
def test_two_workers_of_which_one_is_killed_end_with_the_bits_of_two_undisturbed_ones(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    path = recipe(30)
    undisturbed = start("run", path, "--runs", tmp_path / "calm", "--workers", 2)
    output = finish(undisturbed)
    assert undisturbed.returncode == 0, output

    disturbed = start("run", path, "--runs", tmp_path / "storm", "--workers", 2)
    lines_until(disturbed, "teacher 0: epoch")
    victims = train_workers(disturbed.pid)
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    output = finish(disturbed)
    assert disturbed.returncode == 0, output
    assert artefacts(tmp_path / "calm" / "tiny") == artefacts(tmp_path / "storm" / "tiny")

    # Labelling is byte-identical whatever the number of workers: one worker, the same teacher.
    (tmp_path / "calm" / "tiny" / "transfer_set").rename(tmp_path / "by-two")
    run(path, runs=tmp_path / "calm", stages=["label"], local=True)
    for file in (tmp_path / "by-two").glob("*.parquet"):
        alone = tmp_path / "calm" / "tiny" / "transfer_set" / file.name
        assert file.read_bytes() == alone.read_bytes()


@pytest.mark.ray
def test_a_workers_error_reaches_the_terminal_as_one_sentence(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    sets = ["--set", "teacher.train.lr=1e30", "--set", "teacher.train.optimizer=sgd"]
    process = start("teach", recipe(3), "--runs", tmp_path, *sets)
    output = finish(process)
    assert process.returncode == 2
    assert "the loss must be finite" in output
    assert "Traceback" not in output


@pytest.mark.ray
def test_more_workers_than_the_machine_has_are_refused_at_once(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    process = start("teach", recipe(3), "--runs", tmp_path, "--workers", 1000)
    started = time.monotonic()
    output = finish(process)
    assert process.returncode == 2
    assert "1000 workers with 1 CPU each need 1000 CPUs, but there are" in output
    assert time.monotonic() - started < DEADLINE_S
    assert not list(tmp_path.rglob("epoch-*"))


@pytest.mark.ray
def test_an_address_where_nothing_answers_is_refused(
    recipe: Callable[[int], Path], tmp_path: Path
) -> None:
    process = start("teach", recipe(3), "--runs", tmp_path, "--address", "127.0.0.1:9")
    assert "a Ray cluster must answer there" in finish(process)
    assert process.returncode == 2
