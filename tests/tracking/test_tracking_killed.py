"""Drivers killed at random moments: a tracker has every epoch, and none of them twice."""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import result_at, tiny_recipe
from told import epochs_of, in_mlflow

from kd_ray.pipeline import run
from kd_ray.tracking import sender
from kd_ray.training.progress import Epoch
from tuning import open_sweep, sweep
from tuning.trials import TrialReport

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
KILLS = {"tensorboard": 20, "mlflow": 10, "mlflow-sqlite": 20, "wandb": 6, "trackio": 10}
EPOCHS, EPOCH_S, LONGEST_S = 60, 0.05, 1.5
"""Of each training, longer than the driver's lives are together; and the longest of these."""
PLACES = {
    "teacher 0": "teacher/member-00",
    "student distilled, seed 0": "student/distilled/seed-0",
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits in the end, on a machine that is busy with others too."""
    monkeypatch.setattr(sender, "CLOSE_S", 120.0)


def slowly(*event: object) -> None:
    """A listener that makes epochs long enough to be killed in."""
    if isinstance(event[-1], Epoch | TrialReport):
        time.sleep(EPOCH_S)


def lived(work: Callable[[], object], seconds: float | None) -> bool:
    """Works in a forked process, killed after so many seconds; says whether it came to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def killed(work: Callable[[], object], kills: int) -> None:
    """Kills work so often, or until it comes to its end, which a fast machine may be early at."""
    rng = random.Random(int(os.environ.get("KILL_SEED", "8")))
    survived = 0
    while survived < kills and not lived(work, rng.uniform(0.1, LONGEST_S)):
        survived += 1
    assert survived > kills // 2, "it ended before it was killed often enough"
    for _ in range(3):  # what a tracker did not take, on a busy machine, it is told again
        lived(work, None)


@pytest.mark.parametrize(("tracker", "kills"), KILLS.items(), ids=KILLS, indirect=["tracker"])
def test_a_driver_killed_again_and_again_leaves_no_gap_and_no_double(
    tracker: Any, kills: int, tmp_path: Path
) -> None:
    epochs = EPOCHS * kills // 10
    recipe = tiny_recipe(
        *(f"train.epochs={epochs}", f"teacher.train.epochs={epochs}", "student.baselines=[]"),
        tracker.override,
    )
    killed(lambda: run(recipe, runs=tmp_path, local=True, listener=slowly), kills)
    told = tracker.histories(tmp_path / "tiny")
    assert set(told) == {"tiny", *PLACES}
    for title, place in PLACES.items():
        result = result_at(tmp_path / "tiny" / place)
        for metric in ("train_loss", "learning_rate", "images_per_s"):
            assert epochs_of(told[title], metric) == list(range(1, epochs + 1)), metric
        losses = [record["train_loss"] for record in result.history]
        assert [v for _, v in sorted(told[title]["train_loss"])] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow-sqlite"], indirect=True)
def test_a_sweep_killed_again_and_again_has_every_epoch_of_its_trials_once(
    tracker: Any, tmp_path: Path
) -> None:
    space = 'sweep.space={"objective.temperature" = { log_uniform = [1, 20] }}'
    recipe = tiny_recipe(
        *("data.fraction=0.5", "data.validation=100", "train.epochs=20", "sweep.trials=12"),
        *("sweep.sampler=random", "sweep.enqueue=[]", space, "sweep.fuse=1", tracker.override),
    )
    killed(lambda: sweep(recipe, runs=tmp_path, local=True, listener=slowly), 6)
    told, found = tracker.histories(tmp_path / "tiny"), open_sweep(tmp_path / "tiny")
    assert {trial.state for trial in found.trials} == {"finished", "stopped"}
    assert len(told) == 3 + len(found.trials)
    for trial in found.trials:
        epochs = list(range(1, trial.epochs + 1))
        assert epochs_of(told[f"trial {trial.number}"]) == epochs
        assert epochs_of(told[f"trial {trial.number}"], "accuracy") == epochs


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", exc_type=ImportError)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recipe = tiny_recipe("student.baselines=[]", f"tracking.mlflow={uri}")
    for seconds in (0.4, 0.8, 1.2, 1.6, None):
        lived(lambda: run(recipe, runs=tmp_path, local=True), seconds)
    assert {title: epochs_of(told) for title, told in in_mlflow(uri).items()} == {
        "tiny": [],
        **{title: [1, 2] for title in PLACES},
    }
