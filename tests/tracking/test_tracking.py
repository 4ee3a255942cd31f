"""Runs and sweeps that tell each tracker, read back from it as its own tools read it."""

import shutil
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import kd_ray
from tiny import refused, result_at, tiny_file, tiny_recipe
from told import History, epochs_of

from kd_ray.errors import ConfigError
from kd_ray.pipeline import Run, run
from kd_ray.report.page import REPORT
from kd_ray.result import Result
from kd_ray.runs import Event, Finished, Task
from kd_ray.runs.fit import flattened
from kd_ray.tracking import sender, trackers
from tuning import sweep
from tuning.trials import SweepEvent, TrialReport

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of the trackers' own, when they are imported
    pytest.mark.filterwarnings("ignore:tracking.wandb"),  # it is offline
]
TEACHER, STUDENT = "teacher 0", "student distilled, seed 0"
RECIPE = ("teacher.train.epochs=3", "train.epochs=4", "student.baselines=[]")
SWEEP = (
    *("data.fraction=0.5", "data.validation=100", "train.epochs=3", "sweep.trials=2"),
    *("sweep.sampler=random", "sweep.scheduler=none", "sweep.enqueue=[]"),
    'sweep.space={"objective.temperature" = { log_uniform = [1, 20] }}',
)
KEY = "0123456789abcdef" * 2 + "01234567"
TIMES = ("seconds", "images_per_s")


def quickly(*names: str) -> pytest.MarkDecorator:
    """A test of each tracker, whose default is some of them."""
    every = ("tensorboard", "mlflow", "wandb", "trackio")
    cases = [pytest.param(n, marks=[] if n in names else pytest.mark.slow) for n in every]
    return pytest.mark.parametrize("tracker", cases, indirect=True)


def student_of(run: Path) -> Result:
    return result_at(run / "student/distilled/seed-0")


def told_of(result: Result) -> History:
    """What a tracker must have of a training's epochs."""
    told: History = {}
    for record in result.history:
        for name, value in flattened(record).items():
            if isinstance(value, int | float) and name not in ("epoch", *TIMES):
                told.setdefault(name, []).append((record["epoch"], pytest.approx(value, rel=1e-6)))
    return told


def epochs_only(history: History) -> History:
    """Without the figures at the end, and without what differs from run to run."""
    return {
        name: sorted(told)
        for name, told in history.items()
        if not name.startswith("figures/") and name not in TIMES
    }


def interrupted(recipe: Any, runs: Path, moment: Callable[[Event], bool]) -> None:
    """A run that ends with Ctrl-C at the first event of a kind."""

    def listen(task: Task, event: Event) -> None:
        if moment(event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, runs=runs, local=True, listener=listen)


def test_every_epoch_is_told_once_with_the_recipe_the_figures_and_the_report(
    tracker: Any, tmp_path: Path
):
    recipe = tiny_recipe(*RECIPE, tracker.override)
    run(recipe, runs=tmp_path / "runs", local=True)
    home = tmp_path / "runs" / "tiny"
    found, about = tracker.histories(home), tracker.about(home)
    assert set(found) == {"tiny", TEACHER, STUDENT}
    assert epochs_only(found[TEACHER]) == told_of(result_at(home / "teacher/member-00"))
    assert epochs_only(found[STUDENT]) == told_of(student_of(home))
    accuracy = student_of(home).metrics["accuracy"]
    assert tracker.figures(found, about, STUDENT)["accuracy"] == pytest.approx(accuracy)
    assert tracker.figures(found, about, "tiny")[
        "student/distilled/seed-0/accuracy"
    ] == pytest.approx(accuracy)
    for title in found:
        assert about[title]["objective.temperature"] == recipe.objective.temperature
        assert about[title]["group"] == "tiny"
    assert "report" in about["tiny"]
    assert (home / REPORT).is_file()


@quickly("mlflow", "trackio")
def test_a_run_that_was_interrupted_goes_on_in_the_same_run_of_the_tracker(
    tracker: Any, tmp_path: Path
):
    recipe, runs = tiny_recipe(*RECIPE, tracker.override), tmp_path / "runs"
    for number in (2, 3):
        interrupted(recipe, runs, lambda event, n=number: getattr(event, "number", 0) == n)  # type: ignore[misc]
    run(recipe, runs=runs, local=True)
    again = tracker.histories(runs / "tiny")
    run(recipe, runs=runs, local=True)
    assert tracker.histories(runs / "tiny") == again
    assert set(again) == {"tiny", TEACHER, STUDENT}
    assert epochs_only(again[STUDENT]) == told_of(student_of(runs / "tiny"))
    assert epochs_of(again[TEACHER]) == [1, 2, 3]


@quickly("tensorboard")
def test_a_sweep_has_a_run_for_each_trial_in_a_group_of_its_own(tracker: Any, tmp_path: Path):
    recipe, runs = tiny_recipe(*SWEEP, tracker.override), tmp_path / "runs"

    def listen(event: SweepEvent) -> None:
        if isinstance(event, TrialReport) and (event.number, event.epoch.number) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(recipe, runs=runs, local=True, listener=listen)
    found = sweep(recipe, runs=runs, local=True)
    told, about = tracker.histories(runs / "tiny"), tracker.about(runs / "tiny")
    assert set(told) == {"tiny", TEACHER, "tiny/sweep", "trial 0", "trial 1"}
    for trial in found.trials:
        title = f"trial {trial.number}"
        accuracy = [(epoch, pytest.approx(value)) for epoch, value in trial.history.items()]
        assert sorted(told[title]["accuracy"]) == accuracy
        assert about[title]["group"] == "tiny/sweep"
        wanted = pytest.approx(trial.settings["objective.temperature"])
        assert about[title]["objective.temperature"] == wanted
    assert "report" in about["tiny/sweep"]


@quickly("trackio")
def test_a_run_without_trackers_gets_them_later_and_nothing_is_trained_again(
    tracker: Any, tmp_path: Path
):
    runs, seen = tmp_path / "runs", list[Event]()
    run(tiny_recipe(*RECIPE), runs=runs, local=True)
    assert not (runs / "tiny" / "tracking").exists()
    run(
        tiny_recipe(*RECIPE, tracker.override),
        runs=runs,
        local=True,
        listener=lambda task, event: seen.append(event),
    )
    assert all(isinstance(event, Finished) and event.existed for event in seen)
    told = tracker.histories(runs / "tiny")
    assert epochs_only(told[STUDENT]) == told_of(student_of(runs / "tiny"))


@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
def test_a_run_in_a_folder_of_mlflow_that_a_kill_left_without_content_is_made_again(
    tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe, runs = tiny_recipe(*RECIPE, tracker.override), tmp_path / "runs"
    run(recipe, runs=runs, local=True)
    torn = next((tmp_path / "mlruns").glob("*/*/meta.yaml"))
    torn.write_bytes(b"")
    shutil.rmtree(runs / "tiny" / "tracking" / "done")
    monkeypatch.setattr(trackers, "MAKING_S", 0.0)
    run(recipe, runs=runs, local=True)
    told = tracker.histories(runs / "tiny")
    assert set(told) == {"tiny", TEACHER, STUDENT}
    assert epochs_only(told[STUDENT]) == told_of(student_of(runs / "tiny"))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, name, None)
    value = "true" if name == "tensorboard" else "ours"
    file = tiny_file(tmp_path, f"tracking.{name}={value}")
    answer = refused("run", file, "--local", "--runs", tmp_path / "runs")
    assert f"tracking.{name}: needs {name}, which is not installed" in answer
    assert f"kd-ray[{name}]" in answer
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_keeps_files_is_refused_in_an_object_store(name: str, stored_folder: Path):
    recipe = tiny_recipe(f"tracking.{name}=" + ("true" if name == "tensorboard" else "ours"))
    with pytest.raises(ConfigError, match="must be on a disk"):
        next(Run(recipe, stored_folder, local=True).events())


def test_a_password_in_a_uri_is_refused_and_not_repeated(tmp_path: Path):
    file = tiny_file(tmp_path)
    option = "tracking.mlflow=https://me:hunter2@tracking.example"
    answer = refused("run", file, "--local", "--runs", tmp_path / "runs", "--set", option)
    assert "MLFLOW_TRACKING_PASSWORD" in answer
    assert "hunter2" not in answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_server_that_is_not_there_costs_a_warning_and_nothing_else(name: str, tmp_path: Path):
    pytest.importorskip(name, exc_type=ImportError)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        target = uri if name == "mlflow" else "ours"
        file = tiny_file(tmp_path, *RECIPE, f"tracking.{name}={target}")
        environment = {"WANDB_BASE_URL": uri, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        answer = kd_ray("run", file, "--local", "--runs", tmp_path / "runs", **environment)
    assert answer.returncode == 0, answer.stderr
    (warning,) = answer.stderr.splitlines()
    assert warning.startswith(f"kd-ray: warning: tracking.{name}: {target} ")
    assert "training goes on" in warning
    assert student_of(tmp_path / "runs" / "tiny").status == "finished"


def test_a_server_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("mlflow", exc_type=ImportError)
    monkeypatch.setattr(sender, "CLOSE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.warns(UserWarning, match="has not taken everything within") as caught:
            run(tiny_recipe(*RECIPE, f"tracking.mlflow={uri}"), runs=tmp_path, local=True)
    assert len([each for each in caught if "tracking." in str(each.message)]) == 1
    assert student_of(tmp_path / "tiny").status == "finished"


def test_runs_without_credentials_are_offline_which_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb", exc_type=ImportError)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    recipe = tiny_recipe(*RECIPE, "tracking.wandb=ours")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run(recipe, runs=tmp_path, local=True)
    said = [str(each.message) for each in caught if "tracking." in str(each.message)]
    assert len(said) == 1
    assert "no credentials (WANDB_API_KEY" in said[0]
    assert "wandb sync" in said[0]


def test_no_file_of_a_run_has_a_key_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", exc_type=ImportError)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tiny_recipe(*RECIPE, "tracking.wandb=ours"), runs=tmp_path / "runs", local=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any("offline-run" in str(file) for file in files)
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
