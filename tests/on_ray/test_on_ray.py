"""Real Ray, real processes: the same weights as without it, and as without being killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import descendants, finish, kill, lines_until, start, wait_for, workers
from tiny import fingerprints, result_at

from kd_ray import run
from kd_ray.config import Resources
from kd_ray.errors import ClusterError
from kd_ray.on_ray import Node, Placement, share_out
from kd_ray.on_ray.session import ENVIRONMENT
from kd_ray.training.checkpoint import epochs_in

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
fuse = 1
"""


def written(folder: Path, epochs: int) -> Path:
    """The tiny recipe with a number of epochs, as a file."""
    path = folder / f"tiny-{epochs}.toml"
    path.write_text(RECIPE.replace("EPOCHS", str(epochs)))
    return path


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Runs of 30 epochs that two undisturbed workers made, and what was printed."""
    runs = tmp_path_factory.mktemp("calm")
    return runs, finish(start("run", written(runs, 30), "--runs", runs, "--workers", 2))


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
def test_a_teacher_of_ray_has_the_bits_of_this_process(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    output = finish(start("teach", path, "--runs", tmp_path / "ray"))
    assert "Starting 1 Ray worker" in output
    run(path, runs=tmp_path / "here", stages=["teach"], local=True)
    member = Path("tiny/teacher/member-00")
    one, other = (result_at(tmp_path / way / member) for way in ("ray", "here"))
    assert one.weights_sha256 == other.weights_sha256


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_label_with_the_bytes_of_this_process_and_make_no_noise(
    by_two: tuple[Path, str], tmp_path: Path
) -> None:
    runs, output = by_two
    assert "Starting 2 Ray workers (1 CPU each)" in output
    assert not [line for line in output.splitlines() if "pid=" in line or "WARNING" in line]
    assert len(fingerprints(runs / "tiny")) == 4
    shutil.copytree(runs / "tiny" / "teacher", tmp_path / "tiny" / "teacher")
    run(runs / "tiny-30.toml", runs=tmp_path, stages=["label"], local=True)
    shards = sorted((tmp_path / "tiny" / "transfer_set").glob("*.parquet"))
    assert len(shards) == 8
    for alone in shards:
        assert (runs / "tiny" / "transfer_set" / alone.name).read_bytes() == alone.read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_and_then_killed_driver_leaves_a_run_that_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, 40)
    run(path, runs=tmp_path / "whole", local=True)

    interrupted = start("run", path, "--runs", tmp_path)
    lines_until(interrupted, "teacher 0: epoch")
    interrupted.terminate()
    output = finish(interrupted, 143)
    assert "go on with: kd-ray run" in output
    assert "Traceback" not in output

    killed = start("run", path, "--runs", tmp_path)
    seen = lines_until(killed, "student labels, seed 0: epoch")
    assert "goes on after epoch" in seen
    below = [psutil.Process(pid) for pid in descendants(killed.pid)]
    kill(killed)
    assert psutil.wait_procs(below, timeout=20)[1] == []

    output = finish(start("run", path, "--runs", tmp_path))
    assert "teacher 0: was finished" in output
    assert fingerprints(tmp_path / "tiny") == fingerprints(tmp_path / "whole" / "tiny")


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_end_with_the_bits_of_two_undisturbed_ones(
    by_two: tuple[Path, str], tmp_path: Path
) -> None:
    disturbed = start("run", written(tmp_path, 30), "--runs", tmp_path, "--workers", 2)
    lines_until(disturbed, "teacher 0: epoch")
    victims = workers(disturbed, b"RayTrainWorker")
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    finish(disturbed)
    assert fingerprints(by_two[0] / "tiny") == fingerprints(tmp_path / "tiny")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("helper", "words"),
    [
        (
            b"ray::TrainController",
            "kd-ray: a process of Ray's that holds the workers together must stay",
        ),
        (b"ray::_QueueActor", "kd-ray: a process of Ray's that holds the workers together must"),
        (b"gcs_server", "Ray's head, its process gcs_server, must stay alive, but"),
    ],
)
def test_a_killed_helper_of_the_workers_is_answered_in_one_sentence_and_the_run_goes_on(
    tmp_path: Path, helper: bytes, words: str
) -> None:
    path = written(tmp_path, 200)
    disturbed = start("teach", path, "--runs", tmp_path, "--workers", 2)
    lines_until(disturbed, "teacher 0: epoch")
    member = tmp_path / "tiny/teacher/member-00"
    wait_for("a checkpoint", lambda: bool(epochs_in(member)))
    for victim in workers(disturbed, helper):
        os.kill(victim, signal.SIGKILL)
    assert words in finish(disturbed, 2).splitlines()[-1]
    run(path, runs=tmp_path, stages=["teach"], local=True)
    assert result_at(member).resumed_from


@pytest.mark.ray
@pytest.mark.slow
def test_a_workers_error_reaches_the_terminal_as_one_sentence(tmp_path: Path) -> None:
    sets = ["--set", "teacher.train.lr=1e30", "--set", "teacher.train.optimizer=sgd"]
    output = finish(start("teach", written(tmp_path, 3), "--runs", tmp_path, *sets), 2)
    assert "the loss must be finite" in output
    assert "Traceback" not in output


RAY_FIRST = """
import ray
from kd_ray.on_ray import connected
with connected():
    print(dict(ray.get_runtime_context().runtime_env))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_start_without_uv_also_where_ray_was_imported_first_below_uv_run() -> None:
    below_uv = ("uv", "run", "--no-project", "--python", sys.executable, "python", "-c", RAY_FIRST)
    without = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    assert subprocess.check_output(below_uv, text=True, env=without).splitlines()[-1] == "{}"


@pytest.mark.ray
@pytest.mark.slow
def test_an_address_where_nothing_answers_is_refused(tmp_path: Path) -> None:
    lost = start("teach", written(tmp_path, 3), "--runs", tmp_path, "--address", "127.0.0.1:9")
    assert "a Ray cluster must answer there" in finish(lost, 2)
