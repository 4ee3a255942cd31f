"""Sweeps whose driver or actor is killed, on Ray and without it: the ledger comes out alike."""

import os
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from processes import descendants, finish, kill, lines_until, start, workers
from tiny import tiny_file
from tiny_sweep import VALIDATION, entries

from kd_ray.training.checkpoint import epochs_in
from tuning import open_sweep, sweep
from tuning.trial import trial_folder
from tuning.trials import SweepEvent, TrialBegins, TrialOver, TrialReport

TRIALS = 4
STUDENT = "student/distilled/seed-0"
OVERRIDES = (
    "data.validation=100",
    "data.fraction=1.0",
    "train.epochs=6",
    "train.optimizer=sgd",
    f"sweep.trials={TRIALS}",
    "sweep.sampler=random",
    "sweep.scheduler=none",
    "sweep.enqueue=[]",
    "sweep.fuse=1",
    'sweep.space={"objective.temperature"={log_uniform=[1, 20]},'
    ' "train.lr"={log_uniform=[0.001, 0.03]}}',
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A sweep of four short trials."""
    return tiny_file(tmp_path, *OVERRIDES)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """The same with fewer rows, for kills that wait for an event and not for a time."""
    return tiny_file(tmp_path, *OVERRIDES, "data.fraction=0.25")


def tune(recipe: Path, folder: Path, *options: object) -> "subprocess.Popen[str]":
    """`kd-ray tune run` as a process of its own."""
    return start("tune", "run", recipe, "--runs", folder / "runs", *options)


def kill_when(recipe: Path, runs: Path, moment: Callable[[SweepEvent], bool]) -> None:
    """Runs a sweep in a process of its own and kills it, as kill -9 does, at an event of its own.

    It is forked, so that it need not import torch again.
    """
    told, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        with os.fdopen(tell, "w") as pipe:

            def listener(event: SweepEvent) -> None:
                if moment(event):
                    pipe.write("now\n")
                    pipe.flush()
                    signal.pause()

            sweep(recipe, runs=runs, local=True, listener=listener)
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as pipe:
        heard = pipe.readline()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert heard == "now\n", "the sweep ended before the moment came"


MOMENTS: dict[str, Callable[[SweepEvent], bool]] = {
    "before the first report": lambda event: isinstance(event, TrialBegins),
    "mid-trial": lambda event: isinstance(event, TrialReport) and event.epoch.number == 3,
    "between trials": lambda event: isinstance(event, TrialOver) and event.number == 1,
    "in the last epoch": lambda event: (
        isinstance(event, TrialReport) and (event.number, event.epoch.number) == (TRIALS - 1, 6)
    ),
    "while stopping": lambda event: isinstance(event, TrialOver) and event.number == TRIALS - 1,
}
QUICKLY = ("mid-trial", "between trials")
"""Moments of the default suite."""


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(moment, marks=[] if moment in QUICKLY else pytest.mark.slow)
        for moment in MOMENTS
    ],
)
def test_a_sweep_killed_at_any_moment_goes_on_and_repeats_nothing(
    quick: Path, tmp_path: Path, moment: str
) -> None:
    kill_when(quick, tmp_path / "runs", MOMENTS[moment])
    before = open_sweep(tmp_path / "runs" / "tiny")
    done = [trial for trial in entries(before) if trial[1] == "finished"]
    begun: list[int] = []

    def listener(event: SweepEvent) -> None:
        if isinstance(event, TrialBegins):
            begun.append(event.point.number)

    found = sweep(quick, runs=tmp_path / "runs", local=True, listener=listener)

    assert [trial.state for trial in found.trials] == ["finished"] * TRIALS
    assert begun == list(range(len(done), TRIALS))  # those in flight again, no finished one
    assert entries(found)[: len(done)] == done
    settings = [trial.settings for trial in before.trials if trial.settings]
    assert [trial.settings for trial in found.trials][: len(settings)] == settings
    assert all(len(trial.history) == trial.epochs == 6 for trial in found.trials)


@pytest.mark.parametrize(
    "moment", [pytest.param("before the first report", marks=pytest.mark.slow), "mid-trial"]
)
def test_a_trial_that_was_killed_comes_out_as_if_it_had_not_been(
    quick: Path, tmp_path: Path, moment: str
) -> None:
    undisturbed = sweep(quick, runs=tmp_path / "undisturbed", local=True)
    kill_when(quick, tmp_path / "runs", MOMENTS[moment])
    found = sweep(quick, runs=tmp_path / "runs", local=True)
    assert entries(found)[0] == entries(undisturbed)[0]


KILLED_AT_ITS_STOP = """
import os, signal, sys
from tuning import sweep
from tuning.trials import TrialReport
def listener(event):
    if isinstance(event, TrialReport) and (event.number, event.epoch.number) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
sweep(sys.argv[1], runs=sys.argv[2], local=sys.argv[3] == "here", listener=listener)
"""


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("here", marks=pytest.mark.slow),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_a_driver_killed_between_the_checkpoint_and_the_record_of_a_stopped_trial_stops_it_again(
    tmp_path: Path, place: str
) -> None:
    """On Ray one trial has all CPUs, so that the good one has always ended before the poor one."""
    points = "[" + ", ".join(f'{{"train.lr"={lr}}}' for lr in (0.02, 0.00101)) + "]"
    stopping = ("sweep.scheduler=asha", "sweep.grace=1", "sweep.reduction=2", "sweep.trials=2")
    alone = f"resources.cpus_per_worker={os.cpu_count()}"
    recipe = tiny_file(tmp_path, *OVERRIDES, *stopping, f"sweep.enqueue={points}", alone)
    runs = tmp_path / "runs"
    finish(start(recipe, runs, place, program=("-c", KILLED_AT_ITS_STOP)), -signal.SIGKILL)
    before = open_sweep(runs / "tiny")
    student = trial_folder(before.folder, 1) / STUDENT
    assert [trial.state for trial in before.trials] == ["finished", "running"]
    assert epochs_in(student) == [1]
    found = sweep(recipe, runs=runs, local=place == "here")
    ends = [(trial.state, trial.epochs) for trial in found.trials]
    assert ends == [("finished", 6), ("stopped", 1)]
    assert epochs_in(student) == [1]


@pytest.mark.ray
@pytest.mark.slow
def test_trials_on_ray_are_those_of_this_process(recipe: Path, tmp_path: Path) -> None:
    output = finish(tune(recipe, tmp_path, "--trials", 2))
    assert "2 trials finished" in output
    assert "warning" not in output.lower()
    found = open_sweep(tmp_path / "runs" / "tiny")
    here = sweep(recipe, ["sweep.trials=2"], runs=tmp_path / "here", local=True)
    assert [trial.state for trial in found.trials] == ["finished"] * 2
    assert entries(found)[0] == entries(here)[0]  # the sampler's first draw


@pytest.mark.ray
@pytest.mark.slow
def test_trials_on_ray_survive_actor_and_driver(recipe: Path, tmp_path: Path) -> None:
    process = tune(recipe, tmp_path)
    lines_until(process, "finished after")
    alive = workers(process, b"Trainable", b"TrialActor")
    assert len(alive) <= 2  # trials beyond these use them again
    os.kill(alive[0], signal.SIGKILL)
    lines_until(process, "finished after")
    kill(process)
    output = finish(tune(recipe, tmp_path))
    assert "sweep: goes on after" in output
    assert "warning" not in output.lower()
    found = open_sweep(tmp_path / "runs" / "tiny")
    assert [trial.state for trial in found.trials] == ["finished"] * TRIALS
    here = sweep(recipe, runs=tmp_path / "here", local=True)
    assert entries(found)[0] == entries(here)[0]


@pytest.mark.ray
@pytest.mark.slow
def test_trials_on_ray_that_are_trained_as_one_survive_actor_and_driver(tmp_path: Path) -> None:
    model = "student.model={ name = 'mlp', hidden = [8] }"
    few = ("sweep.fuse=3", "sweep.trials=12", "train.epochs=40")
    asha = ("sweep.scheduler=asha", "sweep.grace=8", "sweep.reduction=2")
    recipe = tiny_file(tmp_path, *OVERRIDES, model, *few, *asha)
    process = tune(recipe, tmp_path)
    lines_until(process, "stopped after")
    os.kill(workers(process, b"Trainable", b"TrialActor")[0], signal.SIGKILL)
    lines_until(process, "finished after")
    kill(process)
    output = finish(tune(recipe, tmp_path))
    assert "sweep: goes on after" in output
    assert "warning" not in output.lower()
    found = open_sweep(tmp_path / "runs" / "tiny")
    assert {trial.state for trial in found.trials} == {"finished", "stopped"}
    assert len(found.trials) == 12
    for trial in found.trials:
        last = epochs_in(trial_folder(found.folder, trial.number) / STUDENT)[-1]
        assert last == trial.epochs
        assert (last == 40) if trial.state == "finished" else (last in (8, 16, 32))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_a_sweep_whose_head_or_node_of_ray_is_killed_ends_with_a_sentence_and_goes_on(
    recipe: Path, tmp_path: Path, victim: str
) -> None:
    process = tune(recipe, tmp_path)
    lines_until(process, "finished after")
    for actor in workers(process, b"Trainable", b"TrialActor"):
        os.kill(actor, signal.SIGSTOP)  # or the few trials left could be over before it is seen
    below = map(psutil.Process, descendants(process.pid))
    (killed,) = (each for each in below if each.name() == victim)
    killed.kill()
    output = finish(process, 2)
    assert f"process {victim}" in output.splitlines()[-1]
    assert "must stay alive" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert "sweep: goes on after" in finish(tune(recipe, tmp_path, "--local"))


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_leaves_a_sweep_on_ray_that_goes_on(recipe: Path, tmp_path: Path) -> None:
    process = tune(recipe, tmp_path)
    lines_until(process, "trial 0: finished")
    process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert "go on with: kd-ray tune run" in output
    finish(tune(recipe, tmp_path))
    found = open_sweep(tmp_path / "runs" / "tiny")
    assert [trial.state for trial in found.trials] == ["finished"] * TRIALS


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_two_workers_is_a_ray_train_run_of_its_own(recipe: Path, tmp_path: Path) -> None:
    # Dropout is drawn by each worker for itself; without it two workers compute what one does.
    plain = [
        "teacher.model={ name = 'mlp', hidden = [16] }",
        "student.model={ name = 'mlp', hidden = [8] }",
    ]
    options = [word for override in plain for word in ("--set", override)]
    two = ("--workers", "2", "--trials", "2")
    output = finish(tune(recipe, tmp_path, *two, *options))
    assert "2 trials finished" in output
    found = open_sweep(tmp_path / "runs" / "tiny")
    alone = sweep(recipe, ["sweep.trials=2", *plain], runs=tmp_path / "alone", local=True)
    row = 1 / VALIDATION
    for trial, other in zip(found.trials, alone.trials, strict=True):
        assert trial.settings == other.settings
        assert trial.values[0] == pytest.approx(other.values[0], abs=1.5 * row)


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_two_workers_is_stopped_early_and_its_place_used_again(
    recipe: Path, tmp_path: Path
) -> None:
    """The first trial is good, the second hopeless: asha stops it, and the third still runs.

    The second goes on from the epoch that the study names, after which no worker trained on.
    """
    points = "[" + ", ".join(f'{{"train.lr"={lr}}}' for lr in (0.02, 0.00101, 0.021)) + "]"
    options = ("sweep.scheduler=asha", "sweep.grace=1", "sweep.trials=3", f"sweep.enqueue={points}")
    sets = [part for option in options for part in ("--set", option)]
    finish(tune(recipe, tmp_path, "--workers", "2", *sets))
    found = open_sweep(tmp_path / "runs" / "tiny")
    states = [trial.state for trial in found.trials]
    assert states[0] == "finished"
    assert states[1] == "stopped"
    assert len(states) == 3
    for trial in found.trials:
        assert epochs_in(trial_folder(found.folder, trial.number) / STUDENT) == [trial.epochs]


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_larger_than_the_machine_is_refused_with_the_arithmetic(
    recipe: Path, tmp_path: Path
) -> None:
    process = tune(recipe, tmp_path, "--workers", "99")
    output = finish(process, 2)
    assert "99 workers with 1 CPU each need 99 CPUs" in output
    assert "Traceback" not in output
