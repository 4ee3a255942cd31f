import shutil
from pathlib import Path

import pytest
import torch
from tiny_sweep import (
    FAIR,
    GOOD,
    POOR,
    TEST,
    Moment,
    command,
    ends,
    entries,
    killed,
    reports,
    search,
)

from kd_ray.errors import StorageError
from kd_ray.training.checkpoint import META, epochs_in
from tuning import open_sweep, resume_trial
from tuning.outcome import Sweep
from tuning.trial import trial_folder
from tuning.trials import SweepBegins, SweepEvent, TrialBegins, TrialReport


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for another writer: in these tests there is none."""
    monkeypatch.setattr("kd_ray.runs.perform.ORPHAN_WAIT_S", 0.5)


def test_an_extended_sweep_keeps_its_trials_and_looks_for_a_new_best(runs: Path) -> None:
    points = [POOR, FAIR, GOOD]
    before = search(runs, enqueue=points, trials=2)
    after = search(runs, enqueue=points, trials=3)
    assert entries(after)[:2] == entries(before)
    assert [entry["trial"] for entry in before.best + after.best] == [1, 2]
    assert after.best[0]["test"]["rows"] == TEST
    assert entries(open_sweep(runs / "tiny")) == entries(after)


def test_best_is_told_although_the_extended_sweep_was_interrupted(runs: Path) -> None:
    """The new best trial has not met the test split yet, the old one has."""
    points = [POOR, FAIR, GOOD]
    search(runs, enqueue=points, trials=1)
    killed(runs, ends(2), enqueue=points, trials=4)
    answer = command("best", runs / "tiny")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    assert "tiny: the best trial" in answer.output


POINTS = [GOOD, FAIR, POOR]


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of given points that nothing interrupted; never changed."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("whole")
    return search(Path(shutil.copytree(base, runs, dirs_exist_ok=True)), enqueue=POINTS)


@pytest.mark.parametrize(
    "moment",
    [reports(1, 1), ends(1)],
    ids=["mid-trial", "between trials"],
)
def test_a_sweep_of_given_points_comes_out_the_same_wherever_it_was_interrupted(
    whole: Sweep, runs: Path, moment: Moment
) -> None:
    killed(runs, moment, enqueue=POINTS)
    seen: list[SweepEvent] = []
    found = search(runs, enqueue=POINTS, listener=seen.append)
    assert entries(found) == entries(whole)
    assert found.best[0]["weights_sha256"] == whole.best[0]["weights_sha256"]
    assert isinstance(seen[0], SweepBegins)
    begun = [event.point.number for event in seen if isinstance(event, TrialBegins)]
    assert begun == list(range(seen[0].over, 3))
    assert seen[0].over + seen[0].left == 3


def test_a_random_sweep_comes_out_the_same_although_it_was_interrupted(
    undisturbed: Sweep, runs: Path
) -> None:
    killed(runs, reports(0, 2))
    assert entries(search(runs)) == entries(undisturbed)


def test_a_sweep_goes_on_in_a_notebook_that_keeps_the_traceback(
    undisturbed: Sweep, runs: Path
) -> None:
    """A traceback keeps every frame alive, and with them what generators hold."""

    def listener(event: SweepEvent) -> None:
        if reports(2, 2)(event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        search(runs, listener=listener)
    assert entries(search(runs)) == entries(undisturbed)
    assert kept.tb is not None


def test_a_sweep_goes_on_where_its_runs_were_moved_to(
    undisturbed: Sweep, runs: Path, tmp_path: Path
) -> None:
    killed(runs, reports(2, 2))
    shutil.move(runs, tmp_path / "moved")
    assert entries(search(tmp_path / "moved")) == entries(undisturbed)


def test_a_trial_with_a_damaged_checkpoint_has_failed_and_the_sweep_goes_on(runs: Path) -> None:
    killed(runs, reports(1, 2))
    (meta,) = (runs / "tiny" / "sweep" / "trial-0001").rglob(META)
    meta.write_text("{")
    found = search(runs)
    assert [trial.state for trial in found.trials] == ["finished", "failed", "finished"]
    assert "must be as it was written" in (found.trials[1].cause or "")


ASHA = {"scheduler": "asha", "grace": 1, "reduction": 2, "enqueue": [GOOD, POOR]}
"""Of two trials the second one is stopped after its first epoch."""


def test_a_full_disk_stops_the_sweep_and_leaves_the_trial_in_flight(
    undisturbed: Sweep, runs: Path
) -> None:
    """A file stands where the trial's folder is to be, so that nothing can be written there."""
    blocked = trial_folder(runs / "tiny" / "sweep", 1)
    blocked.parent.mkdir()
    blocked.touch()
    with pytest.raises(StorageError, match=r"trial-0001.*cannot be written"):
        search(runs)
    assert [trial.state for trial in open_sweep(runs / "tiny").trials] == ["finished", "running"]
    blocked.unlink()
    assert entries(search(runs)) == entries(undisturbed)


def test_a_trial_has_its_checkpoint_before_it_is_noted_as_stopped(runs: Path) -> None:
    def listener(event: SweepEvent) -> None:
        if isinstance(event, TrialReport) and event.number == 1:
            assert epochs_in(folder / "student" / "distilled" / "seed-0") == [event.epoch.number]

    folder = trial_folder(runs / "tiny" / "sweep", 1)
    stopped = search(runs, **ASHA, trials=2, seeds=[0, 1], listener=listener).trials[1]
    assert (stopped.state, stopped.epochs) == ("stopped", 1)
    for seed in (0, 1):
        assert epochs_in(folder / "student" / "distilled" / f"seed-{seed}") == [1]
    resume_trial(runs / "tiny", 2, trial=1, local=True)


def test_drafts_of_trials_that_are_over_are_cleared(runs: Path) -> None:
    found = search(runs, trials=1)
    home = trial_folder(found.folder, 0)
    drafts = [home / ".tmp-ray-1", home / "student" / "distilled" / "seed-0" / ".tmp-1-epoch-0002"]
    for draft in drafts:
        draft.mkdir()
    search(runs, trials=2)
    assert not any(draft.exists() for draft in drafts)
