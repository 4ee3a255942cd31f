"""Drivers killed at random moments: a tracker has every epoch, and none of them twice."""

import os
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from tiny import result_at, tiny_recipe
from told import epochs_of

from kd_ray.pipeline import run
from kd_ray.runs import Event, Task
from kd_ray.training.progress import Epoch

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
KILLS = {"tensorboard": 20, "mlflow": 20, "wandb": 10, "trackio": 20}
EPOCHS, EPOCH_S, LONGEST_S = 60, 0.05, 1.5
"""Of each training, longer than the driver's lives are together; and the longest of these."""
PLACES = {
    "teacher 0": "teacher/member-00",
    "student distilled, seed 0": "student/distilled/seed-0",
}


def slowly(task: Task, event: Event) -> None:
    """A listener that makes epochs long enough to be killed in."""
    if isinstance(event, Epoch):
        time.sleep(EPOCH_S)


def lived(recipe: Any, runs: Path, seconds: float | None) -> bool:
    """Runs a recipe in a forked process, killed after so many seconds; says whether it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            run(recipe, runs=runs, local=True, listener=slowly)
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def test_a_driver_killed_again_and_again_leaves_no_gap_and_no_double(
    tracker: Any, tmp_path: Path
) -> None:
    kills, rng = KILLS[tracker.name], random.Random(8)
    epochs = EPOCHS * kills // 10
    recipe = tiny_recipe(
        *(f"train.epochs={epochs}", f"teacher.train.epochs={epochs}", "student.baselines=[]"),
        tracker.override,
    )
    ended = [lived(recipe, tmp_path, rng.uniform(0.1, LONGEST_S)) for _ in range(kills)]
    assert not any(ended), "it ended before it was killed often enough"
    lived(recipe, tmp_path, None)
    told = tracker.histories(tmp_path / "tiny")
    assert set(told) == {"tiny", *PLACES}
    for title, place in PLACES.items():
        result = result_at(tmp_path / "tiny" / place)
        for metric in ("train_loss", "learning_rate", "images_per_s"):
            assert epochs_of(told[title], metric) == list(range(1, epochs + 1)), metric
        losses = [record["train_loss"] for record in result.history]
        assert [v for _, v in sorted(told[title]["train_loss"])] == pytest.approx(losses, rel=1e-6)
