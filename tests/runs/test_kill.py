"""Real processes, really killed: what is run again ends where an uninterrupted run ends."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import finish, signal_when, start
from tiny import tiny_file, tiny_recipe, weights_sha256

from kd_ray.errors import TransferSetError
from kd_ray.pipeline import run
from kd_ray.result import RESULT
from kd_ray.runs import Event, ShardDone, Task
from kd_ray.training.checkpoint import epoch_folder, epochs_in
from kd_ray.training.saved_model import load_model
from kd_ray.transfer_set import read_manifest

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


Moment = Callable[[Path], bool]


def signalled(folder: Path, number: signal.Signals, moment: Moment) -> tuple[Path, str]:
    """The folder of a real `kd-ray run` that got a signal at a moment, and what it printed."""
    recipe, run = tiny_file(folder, *RECIPE), folder / "runs" / "tiny"
    process = start("run", recipe, "--local", "--runs", folder / "runs", COLUMNS="200")
    signal_when(process, number, lambda: moment(run))
    return run, finish(process, 130 if number == signal.SIGINT else -number)


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


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, uninterrupted: Path
):
    torn, _ = signalled(tmp_path, signal.SIGKILL, in_teacher_training)
    check_unfinished_training(torn, TEACHER)

    signalled(tmp_path, signal.SIGKILL, in_labelling)
    with pytest.raises(TransferSetError, match="labelling has not finished"):
        read_manifest(torn / "transfer_set")
    assert (torn / TEACHER / RESULT).is_file()

    signalled(tmp_path, signal.SIGKILL, in_distillation)
    check_unfinished_training(torn, STUDENT)

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
        assert weights_sha256(torn / folder) == weights_sha256(uninterrupted / folder)
    ours, theirs = (read_manifest(place / "transfer_set") for place in (torn, uninterrupted))
    assert ours.sha256 == theirs.sha256
    assert list(torn.rglob(".tmp-*")) == []


def test_a_run_interrupted_by_ctrl_c_says_how_to_go_on_and_keeps_its_epochs(tmp_path: Path):
    torn, output = signalled(tmp_path, signal.SIGINT, in_teacher_training)
    assert "Traceback" not in output
    advice = (
        r"interrupted; finished epochs and shards are kept, go on with: kd-ray run .*tiny\.toml"
    )
    assert re.search(advice, output)
    check_unfinished_training(torn, TEACHER)
