"""Real processes, really killed: what is run again ends where an uninterrupted run ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_file, tiny_recipe, weights_sha256

from kd_ray.errors import TransferSetError
from kd_ray.pipeline import run
from kd_ray.result import RESULT
from kd_ray.runs import Event, ShardDone, Task
from kd_ray.training.checkpoint import epoch_folder, epochs_in
from kd_ray.training.saved_model import load_model
from kd_ray.transfer_set import read_manifest

PATIENCE_S = 120.0
POLL_S = 0.004
EPOCHS = 100
RECIPE = (
    "data.fraction=0.5",  # long enough to be hit in the middle, on a busy machine too
    "data.validation=100",
    f"teacher.train.epochs={EPOCHS}",
    "teacher.train.keep=best",
    "transfer_set.shard_rows=5",
    "student.baselines=[]",
    f"train.epochs={EPOCHS}",
    "train.optimizer=sgd",
    "train.schedule=one-cycle",
)
TEACHER, STUDENT = Path("teacher/member-00"), Path("student/distilled/seed-0")


class Started:
    """A real `kd-ray run` that can be watched."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "runs" / "tiny"
        recipe = tiny_file(folder, *RECIPE)
        command = [sys.executable, "-m", "kd_ray", "run", str(recipe), "--local"]
        self.process = subprocess.Popen(
            [*command, "--runs", str(folder / "runs")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    def send_when(self, number: signal.Signals, moment: Callable[[Path], bool]) -> str:
        """Sends a signal as soon as the run folder shows that the moment has come."""
        deadline = time.monotonic() + PATIENCE_S
        while not moment(self.run):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(POLL_S)
        self.process.send_signal(number)
        return self.end()

    def end(self) -> str:
        """What it printed."""
        return self.process.communicate(timeout=PATIENCE_S)[0]


def trained(run: Path, folder: Path, epochs: int) -> bool:
    return (epochs_in(run / folder) or [0])[-1] >= epochs


def in_teacher_training(run: Path) -> bool:
    return trained(run, TEACHER, 5)


def in_labelling(run: Path) -> bool:
    return len(list((run / "transfer_set").glob("train-*.parquet"))) >= 20


def in_distillation(run: Path) -> bool:
    return trained(run, STUDENT, 5)


def check_unfinished_training(run: Path, folder: Path) -> None:
    """The training does not look finished, and its latest checkpoint is whole."""
    assert not (run / folder / RESULT).exists()
    latest = epochs_in(run / folder)[-1]
    assert 5 <= latest < EPOCHS
    assert load_model(epoch_folder(run / folder, latest), torch.device("cpu")).meta.epoch == latest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same recipe, run to its end without a break, in this process."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    run(tiny_recipe(*RECIPE), runs=runs, local=True)
    return runs / "tiny"


def test_a_run_killed_in_every_stage_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, uninterrupted: Path
):
    first = Started(tmp_path)
    first.send_when(signal.SIGKILL, in_teacher_training)
    assert first.process.returncode == -signal.SIGKILL
    check_unfinished_training(first.run, TEACHER)

    second = Started(tmp_path)
    second.send_when(signal.SIGKILL, in_labelling)
    assert second.process.returncode == -signal.SIGKILL
    with pytest.raises(TransferSetError, match="labelling has not finished"):
        read_manifest(second.run / "transfer_set")
    assert (second.run / TEACHER / RESULT).is_file()

    third = Started(tmp_path)
    third.send_when(signal.SIGKILL, in_distillation)
    assert third.process.returncode == -signal.SIGKILL
    check_unfinished_training(third.run, STUDENT)

    # The last one goes on in this process, which spares an interpreter's start.
    seen: list[tuple[Task, Event]] = []
    run(
        tiny_recipe(*RECIPE),
        runs=tmp_path / "runs",
        local=True,
        listener=lambda task, event: seen.append((task, event)),
    )
    assert not [event for _, event in seen if isinstance(event, ShardDone)]
    for folder in (TEACHER, STUDENT):
        assert weights_sha256(third.run / folder) == weights_sha256(uninterrupted / folder)
    ours, theirs = (read_manifest(place / "transfer_set") for place in (third.run, uninterrupted))
    assert ours.sha256 == theirs.sha256
    assert list(third.run.rglob(".tmp-*")) == []


def test_a_run_interrupted_by_ctrl_c_says_how_to_go_on_and_keeps_its_epochs(tmp_path: Path):
    started = Started(tmp_path)
    output = started.send_when(signal.SIGINT, in_teacher_training)
    assert started.process.returncode == 130
    assert "Traceback" not in output
    advice = (
        r"interrupted; finished epochs and shards are kept, go on with: kd-ray run .*tiny\.toml"
    )
    assert re.search(advice, output)
    check_unfinished_training(started.run, TEACHER)
