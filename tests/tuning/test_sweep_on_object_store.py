"""Sweeps in an object store: the study is there whole, and a killed driver's goes on from it."""

import os
from pathlib import Path

import optuna
import pytest
from processes import kill, lines_until, start
from tiny_sweep import RATE, T, command, entries, refused, search, swept_file

from kd_ray.files import local_copy, locked
from tuning import open_sweep
from tuning.ledger import STUDY
from tuning.outcome import Sweep

pytestmark = pytest.mark.slow
PROGRAM = """
import signal, sys
from tuning import sweep
from tuning.trials import TrialReport
def listener(event):
    if isinstance(event, TrialReport) and (event.number, event.epoch.number) == (1, 2):
        print("now", flush=True)
        signal.pause()
sweep(sys.argv[1], runs=sys.argv[2], local=True, listener=listener)
"""


@pytest.fixture(scope="module")
def labelled(base: Path) -> str:
    """An override: a transfer set that was made before, on a disk."""
    return f"transfer_set.path={base / 'tiny' / 'transfer_set'}"


@pytest.fixture(scope="module")
def killed(bucket: Path, labelled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in the store, with a sweep that was killed in its second trial."""
    runs = bucket / "killed"
    recipe = swept_file(tmp_path_factory.mktemp("recipe"), labelled)
    process = start(recipe, runs, program=("-c", PROGRAM))
    lines_until(process, "now")
    kill(process)
    return runs


@pytest.fixture(scope="module")
def gone_on(killed: Path, labelled: str) -> Sweep:
    """The same sweep at its end."""
    return search(killed, labelled)


def test_a_killed_sweep_in_a_store_shows_what_was_begun(killed: Path):
    assert "running" in command("show", killed / "tiny").stdout


def test_a_killed_sweep_in_a_store_goes_on_to_the_ledger_of_one_on_a_disk(
    gone_on: Sweep, undisturbed: Sweep
):
    assert entries(gone_on) == entries(undisturbed)
    assert gone_on.best[0]["weights_sha256"] == undisturbed.best[0]["weights_sha256"]
    assert len(gone_on.study.trials) == 3  # its copy lives as long as it does


def test_the_study_in_the_store_is_one_that_optuna_opens(gone_on: Sweep):
    with local_copy(gone_on.folder / STUDY) as copy:
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{copy}")
        assert [trial.values for trial in study.trials] == [list(t.values) for t in gone_on.trials]


def test_a_sweep_in_a_store_is_shown_with_its_best_and_opened_again(gone_on: Sweep):
    run = gone_on.folder.parent
    assert "finished" in command("show", run).stdout
    best = command("best", run).stdout
    assert f"trial {gone_on.best[0]['trial']}" in best
    assert entries(open_sweep(str(gone_on.folder))) == entries(gone_on)


def test_no_credential_is_in_any_file_of_a_sweep(gone_on: Sweep):
    files = [path for path in gone_on.folder.rglob("*") if path.is_file()]
    assert {"study.db", "trials.parquet", "best.json", "report.html"} <= {f.name for f in files}
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in files if secret in path.read_bytes()]
    assert not [path for path in files if "lock" in path.name]


def test_the_best_trial_of_a_sweep_in_a_store_is_trained_on(gone_on: Sweep):
    answer = command("resume", gone_on.folder.parent, "--epochs", 4, "--local")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    run = gone_on.folder.parent.parent / f"tiny-trial-{gone_on.best[0]['trial']}-4-epochs"
    assert list(run.rglob("epoch-0004/meta.json"))


def test_a_sweep_in_a_store_whose_driver_lives_is_refused(
    gone_on: Sweep, labelled: str, tmp_path: Path
):
    recipe, runs = swept_file(tmp_path, labelled), gone_on.folder.parent.parent
    with locked(gone_on.folder):
        assert "one process at a time" in refused("run", recipe, "--local", "--runs", runs)


def test_a_place_without_a_sweep_is_refused(stored_folder: Path):
    assert "must be a sweep" in refused("show", stored_folder)


def test_the_settings_of_a_trial_come_back_from_a_store(gone_on: Sweep):
    assert all(set(trial.settings) == {T, RATE} for trial in gone_on.trials)
