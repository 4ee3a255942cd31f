"""Trials trained as one: each is what it is alone, and is stopped, killed or fails alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import (
    RATE,
    SPACE,
    Moment,
    T,
    begins,
    ends,
    entries,
    refused,
    reports,
    search,
    swept_file,
)

from kd_ray.training.checkpoint import epochs_in, latest_checkpoint, read_meta
from tuning.outcome import Sweep
from tuning.trial import trial_folder
from tuning.trials import SweepEvent, TrialBegins

PLAIN = "student.model={ name = 'mlp', hidden = [8] }"
"""Without dropout, whose random numbers keep students apart."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_ray.runs.perform.ORPHAN_WAIT_S", 0.5)


def fused(runs: Path, *overrides: str, **options: Any) -> Sweep:
    return search(runs, PLAIN, *overrides, **{"trials": 6, "fuse": 6} | options)


def interrupted(runs: Path, moment: Moment, *overrides: str, **options: Any) -> None:
    def listener(event: SweepEvent) -> None:
        if moment(event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fused(runs, *overrides, listener=listener, **options)


def undisturbed(runs: Path, place: Path) -> Path:
    """The same teacher and transfer set elsewhere."""
    return Path(shutil.copytree(runs, place / "whole", ignore=shutil.ignore_patterns("sweep")))


def student(found: Sweep, number: int, seed: int = 0) -> Path:
    return trial_folder(found.folder, number) / f"student/distilled/seed-{seed}"


def test_trials_trained_as_one_are_those_of_each_alone(runs: Path, tmp_path: Path) -> None:
    alone = fused(undisturbed(runs, tmp_path), "sweep.seeds=[0, 3]", fuse=1)
    together = fused(runs, "sweep.seeds=[0, 3]")
    for one, other in zip(together.trials, alone.trials, strict=True):
        assert (one.settings, one.state, one.epochs) == (other.settings, "finished", 3)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)
        assert one.history == pytest.approx(other.history, rel=1e-4)
    for number in range(6):
        path = latest_checkpoint(student(together, number, 3))
        assert path is not None
        assert read_meta(path).progress["fused"]
    assert together.best[0]["trial"] == alone.best[0]["trial"]


def test_a_stopped_trial_leaves_its_place_with_a_checkpoint_of_that_epoch(runs: Path) -> None:
    found = fused(runs, "train.epochs=6", scheduler="asha", grace=2, reduction=2, trials=8, fuse=8)
    states = {trial.number: (trial.state, trial.epochs) for trial in found.trials}
    stopped = [number for number, (state, _) in states.items() if state == "stopped"]
    assert stopped
    assert found.count("finished") == 8 - len(stopped) > 0
    for number, (state, epochs) in states.items():
        assert epochs in ((2, 4) if state == "stopped" else (6,))
        assert epochs_in(student(found, number))[-1] == epochs


STOPPING = {
    "sampler": "tpe",
    "trials": 6,
    "fuse": 4,
    "scheduler": "asha",
    "grace": 1,
    "reduction": 2,
}


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep that nothing interrupted; never changed."""
    return fused(undisturbed(base, tmp_path_factory.mktemp("undisturbed")), **STOPPING)


@pytest.mark.parametrize(
    "moment", [begins(3), reports(2, 1), reports(3, 2), ends(1)], ids=["begin", "2", "3", "end"]
)
def test_a_sweep_that_was_interrupted_comes_out_the_same(
    runs: Path, whole: Sweep, moment: Moment
) -> None:
    interrupted(runs, moment, **STOPPING)
    again = fused(runs, **STOPPING)
    assert entries(again) == entries(whole)
    assert again.best[0]["weights_sha256"] == whole.best[0]["weights_sha256"]


def test_a_trial_whose_loss_is_no_longer_finite_fails_alone(runs: Path) -> None:
    points = [{T: 2.0, RATE: 0.01}, {T: 2.0, RATE: 1e30}, {T: 4.0, RATE: 0.02}]
    space = SPACE | {RATE: {"log_uniform": [0.001, 1e31]}}
    found = fused(runs, "train.optimizer=sgd", enqueue=points, space=space, trials=3, fuse=3)
    assert [trial.state for trial in found.trials] == ["finished", "failed", "finished"]
    assert "the loss must be finite" in (found.trials[1].cause or "")


def test_trials_of_several_architectures_are_each_trained_with_their_like(runs: Path) -> None:
    width = {"student.model.hidden": {"choice": [[8], [6]]}}
    found = fused(runs, space=SPACE | width, trials=6, fuse="auto")
    assert found.count("finished") == 6
    assert len({str(trial.settings["student.model.hidden"]) for trial in found.trials}) == 2


@pytest.mark.parametrize(("faster", "handed"), [(True, [8, 4]), (False, [8, 1, 1, 1, 1])])
def test_the_first_trials_show_whether_others_are_handed_out_together(
    runs: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, handed: list[int]
) -> None:
    monkeypatch.setattr("kd_ray.runs.together.is_faster", lambda *_: faster)
    seen: list[SweepEvent] = []
    fused(runs, sampler="tpe", trials=12, fuse="auto", listener=seen.append)
    groups, before = [0], True
    for event in seen[1:]:
        begun = isinstance(event, TrialBegins)
        if begun and not before:
            groups.append(0)
        groups[-1] += begun
        before = begun
    assert groups == handed


def test_what_must_be_trained_as_one_and_cannot_be_is_refused(runs: Path, tmp_path: Path) -> None:
    recipe = swept_file(tmp_path, fuse=3)
    answer = refused("run", recipe, "--local", "--runs", runs)
    assert "sweep.fuse: 3 students must be trainable as one, but their model draws random" in answer
    answer = refused("run", recipe, "--workers", "2", "--runs", runs)
    assert "sweep.fuse: 3 students must be trainable as one, but each is trained by 2" in answer
