import json
import re
import shutil
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import torch
from tiny import result_at
from tiny_sweep import (
    GOOD,
    POOR,
    RATE,
    TEST,
    VALIDATION,
    C,
    T,
    command,
    entries,
    search,
    swept_file,
    swept_recipe,
)
from typer.testing import CliRunner

from kd_ray.artefacts import evaluate_checkpoint
from kd_ray.artefacts import inspect as look
from kd_ray.cli import app
from kd_ray.config import SoftWeight
from kd_ray.errors import ConfigError
from kd_ray.pipeline import open_recipe
from kd_ray.result import read_result
from kd_ray.runs.folder import read_run
from kd_ray.transfer_set import read_manifest
from tuning import open_sweep
from tuning.driver import check_sweep
from tuning.outcome import Sweep
from tuning.space import trial_recipe
from tuning.trial import trial_folder
from tuning.trials import SweepBegins, SweepEvent, TrialBegins, TrialOver, TrialReport

WINNER = {T: 2.0, C: "0.5*T^2", RATE: 0.03}
HOPELESS = {T: 1.0, C: "T^2", RATE: 0.001}
WILD = {T: 4.0, C: "T^2", RATE: 1e30}
ON_LABELS = {C: 0, RATE: 0.01}
MIXED = {
    "space": {
        T: {"log_uniform": [1, 20]},
        C: {"log_uniform": [0.1, 10], "times": "T^2", "or_zero": True},
        RATE: {"log_uniform": [0.001, 1e30]},
    },
    "enqueue": [ON_LABELS, WILD, WINNER, HOPELESS],
    "scheduler": "asha",
    "grace": 1,
    "reduction": 2,
    "trials": 4,
}
"""Four trials: one without a soft term, one that diverges, the winner, and one stopped early."""


@pytest.fixture(scope="module")
def mixed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, list[SweepEvent]]:
    """A finished sweep whose trials end in every way, and its events; never changed."""
    torch.set_num_threads(1)
    seen: list[SweepEvent] = []
    runs = Path(shutil.copytree(base, tmp_path_factory.mktemp("mixed"), dirs_exist_ok=True))
    return search(runs, listener=seen.append, **MIXED), seen


def test_trials_end_as_they_should(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    states = [trial.state for trial in found.trials]
    assert states == ["finished", "failed", "finished", "stopped"]
    assert [trial.epochs for trial in found.trials] == [3, 0, 3, 1]
    assert [trial.settings for trial in found.trials] == [ON_LABELS, WILD, WINNER, HOPELESS]
    assert [len(trial.history) for trial in found.trials] == [3, 0, 3, 1]
    assert [bool(trial.values) for trial in found.trials] == [True, False, True, False]
    assert found.trials[0].values == (found.trials[0].history[3],)


def test_a_trial_that_diverges_has_failed_with_its_cause_and_the_sweep_goes_on(
    mixed: tuple[Sweep, list[SweepEvent]],
) -> None:
    cause = mixed[0].trials[1].cause
    assert cause is not None
    assert cause.startswith("epoch 1: the loss must be finite, but is ")
    assert mixed[0].trials[2].state == "finished"


def test_events_tell_of_each_trial_from_its_begin_to_its_end(
    mixed: tuple[Sweep, list[SweepEvent]],
) -> None:
    found, seen = mixed
    assert seen[0] == SweepBegins(over=0, left=4, best=None)
    told_of: dict[int, list[object]] = {number: [] for number in range(4)}
    for event in seen[1:]:
        if isinstance(event, TrialBegins):
            told_of[event.point.number].append("begins")
        elif isinstance(event, TrialReport):
            told_of[event.number].append(event.epoch.number)
        elif isinstance(event, TrialOver):
            told_of[event.number].append(event.state)
            assert event.values.get("accuracy") == found.trials[event.number].metrics.get(
                "accuracy"
            )
    assert told_of == {
        0: ["begins", 1, 2, 3, "finished"],
        1: ["begins", "failed"],
        2: ["begins", 1, 2, 3, "finished"],
        3: ["begins", 1, "stopped"],
    }


def test_the_study_opens_in_optuna_as_it_is(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    storage = f"sqlite:///{found.folder / 'study.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "PRUNED"]
    assert study.best_trial.number == found.front[0].number == 2
    assert study.trials[3].intermediate_values == found.trials[3].history


def test_an_opened_sweep_is_the_one_that_ran(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    for path in (found.folder, found.folder.parent):
        again = open_sweep(path)
        assert entries(again) == entries(found)
        assert (again.best, again.recipe) == (found.best, found.recipe)
    with pytest.raises(ConfigError, match="trials are numbered 0 to 3, but 4 was asked for"):
        found.trial(4)


def test_trials_parquet_has_a_row_for_each_trial(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    rows = pq.read_table(found.folder / "trials.parquet").to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    for row, trial in zip(rows, found.trials, strict=True):
        assert (row["state"], row["epochs"], row["cause"]) == (
            trial.state,
            trial.epochs,
            trial.cause,
        )
        assert row[T] == trial.settings.get(T)
        assert row[RATE] == trial.settings[RATE]
        assert row[f"{C} / T^2"] == SoftWeight.parse(trial.settings[C]).factor
        for name in ("accuracy", "loss", "rows"):
            assert row[f"validation.{name}"] == trial.metrics.get(name)
    assert rows[0][T] is None


def test_trials_parquet_calls_nothing_of_training_a_validation_figure(
    mixed: tuple[Sweep, list[SweepEvent]],
) -> None:
    columns = pq.read_schema(mixed[0].folder / "trials.parquet").names
    figures = {name.removeprefix("validation.") for name in columns if "validation." in name}
    assert not figures & {"train_loss", "learning_rate", "epoch", "seconds", "images_per_s"}


def test_only_the_winner_has_met_the_test_split(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    written = json.loads((found.folder / "best.json").read_text())
    assert written["metrics"] == ["accuracy"]
    (entry,) = written["trials"]
    assert entry == found.best[0]
    assert (entry["trial"], entry["settings"]) == (2, WINNER)
    assert (entry["validation"]["rows"], entry["test"]["rows"]) == (VALIDATION, TEST)
    assert entry["validation"] == found.trials[2].metrics
    checkpoint = found.folder.parent / entry["checkpoints"][0]
    measured = evaluate_checkpoint(checkpoint)
    assert entry["test"]["accuracy"] == measured["accuracy"]
    assert entry["recipe"]["train"]["lr"] == WINNER[RATE]
    results = [json.loads(file.read_text()) for file in found.folder.rglob("seed-*/result.json")]
    assert len(results) == 2
    assert all(result["metrics"]["rows"] == VALIDATION for result in results)
    assert {result["weights_sha256"] for result in results} > set(entry["weights_sha256"])


def test_the_sweeps_result_says_what_came_of_it(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    result = json.loads((found.folder / "result.json").read_text())
    assert result["status"] == "finished"
    counts = {name: result["metrics"][name] for name in ("trials", "finished", "stopped", "failed")}
    assert counts == {"trials": 4, "finished": 2, "stopped": 1, "failed": 1}
    assert result["metrics"]["best_accuracy"] == found.best[0]["test"]["accuracy"]
    assert (
        result["parents"]["transfer_set"] == result_at(found.folder.parent / "transfer_set").sha256
    )


def test_a_sweep_may_search_how_to_go_on_from_a_student(runs: Path, tmp_path: Path) -> None:
    first = search(runs, trials=1, enqueue=[GOOD])
    student = trial_folder(first.folder, 0) / "student" / "distilled"
    longer = search(
        tmp_path / "longer",
        f"student.continues='{student}'",
        "train.epochs=5",
        trials=1,
        enqueue=[GOOD],
    )
    (trial,) = longer.trials
    assert (trial.state, trial.cause, trial.epochs) == ("finished", None, 5)
    assert dict(list(trial.history.items())[:3]) == first.trials[0].history


def test_tune_run_prints_its_trials_the_best_and_the_files_and_goes_on_with_more(
    runs: Path,
) -> None:
    recipe = swept_file(runs, enqueue=[POOR, GOOD])
    arguments = ("run", recipe, "--runs", runs, "--local", "--trials")
    first = command(*arguments, 1)
    assert first.exit_code == 0, (first.output, first.exception)
    assert re.search(r"^trial 0: T 1, lr 0\.001$", first.output, re.MULTILINE)
    again = command(*arguments, 2)
    assert again.exit_code == 0, (again.output, again.exception)
    assert "sweep: goes on after 1 trials, 1 left" in again.output
    assert re.search(r"^trial 1: finished after 3 epochs, accuracy ", again.output, re.MULTILINE)
    assert "2 trials finished, 0 stopped early, 0 failed" in again.output
    (entry,) = open_sweep(runs / "tiny").best
    assert f"{100 * entry['test']['accuracy']:.2f}" in again.output
    for name in ("report.html", "trials.parquet", "best.json"):
        path = runs / "tiny" / "sweep" / name
        assert f"{path}: written" in again.output
        assert path.stat().st_size > 0


def test_a_sweep_is_exported_by_its_front_and_is_in_the_report_of_its_run(runs: Path) -> None:
    recipe = swept_file(runs, enqueue=[POOR, GOOD], metric=["accuracy", "loss"])
    done = command("run", recipe, "--runs", runs, "--local", "--trials", 2)
    assert done.exit_code == 0, done.output
    answer = CliRunner().invoke(app, ["export", str(runs / "tiny"), "--rows", "20"])
    assert answer.exit_code == 0, answer.output
    place = "sweep/trial-0001/student/distilled/seed-0"
    assert f"In {runs / 'tiny' / 'export' / place}" in answer.output
    assert result_at(runs / "tiny" / "export" / place / "packed").metrics["rows"] == 20
    assert f"{place} as packed" in [each.title for each in read_run(runs / "tiny").artefacts]


def test_inspect_takes_a_run_folder_with_a_sweep(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    title, facts = look(mixed[0].folder.parent)
    assert title.startswith("run ")
    assert "teacher 0" in facts


def test_a_sweep_run_again_trains_nothing_and_comes_to_the_same(
    mixed: tuple[Sweep, list[SweepEvent]], tmp_path: Path
) -> None:
    found = mixed[0]
    shutil.copytree(found.folder.parent, tmp_path / "tiny")
    seen: list[SweepEvent] = []
    again = search(tmp_path, listener=seen.append, **MIXED)
    assert seen == [SweepBegins(over=4, left=0, best=(2, found.trials[2].values[0]))]
    assert entries(again) == entries(found)
    assert again.best == found.best


def test_seeds_of_a_trial_count_by_their_mean(runs: Path) -> None:
    found = search(runs, trials=1, enqueue=[GOOD], seeds=[3, 5])
    (trial,) = found.trials
    students = trial_folder(found.folder, 0) / "student" / "distilled"
    assert sorted(folder.name for folder in students.iterdir()) == ["seed-3", "seed-5"]
    results = [result_at(students / f"seed-{n}") for n in (3, 5)]
    for name in ("accuracy", "loss", "divergence"):
        figures = [result.metrics[name] for result in results]
        assert figures[0] != figures[1]
        assert trial.metrics[name] == pytest.approx(sum(figures) / 2, rel=1e-12)
    for epoch, value in trial.history.items():
        figures = [result.history[epoch - 1]["accuracy"] for result in results]
        assert value == pytest.approx(sum(figures) / 2, rel=1e-12)
    (entry,) = found.best
    assert len(entry["tests"]) == len(entry["checkpoints"]) == 2
    mean = sum(test["accuracy"] for test in entry["tests"]) / 2
    assert entry["test"]["accuracy"] == pytest.approx(mean, rel=1e-12)


def test_several_objectives_end_in_a_front_that_nothing_beats(runs: Path) -> None:
    space = {"student.model.hidden": {"choice": [[2], [8], [32]]}, RATE: {"choice": [0.001, 0.03]}}
    found = search(
        runs,
        space=space,
        sampler="grid",
        trials=6,
        metric=["accuracy", "packed_bytes"],
        scheduler=None,
    )
    assert found.count("finished") == 6
    front = found.front
    for trial in found.trials:
        beaten = any(
            better.values[0] >= trial.values[0]
            and better.values[1] <= trial.values[1]
            and better.values != trial.values
            for better in found.trials
        )
        assert (trial in front) == (not beaten)
    accuracies = [trial.values[0] for trial in front]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {t.number for t in front} == {t.number for t in found.study.best_trials}
    assert [entry["trial"] for entry in found.best] == [trial.number for trial in front]
    assert all(entry["test"]["rows"] == TEST for entry in found.best)


def test_values_that_do_not_go_together_are_a_failed_trial(runs: Path) -> None:
    """Each is fine alone: SGD with the recipe's momentum, and Adam without any."""
    space = {"train.optimizer": {"choice": ["adam", "sgd"]}, "train.momentum": {"choice": [0, 0.9]}}
    found = search(runs, space=space, sampler="grid", trials=4)
    states = {tuple(t.settings.values()): t.state for t in found.trials}
    assert states.pop(("sgd", 0)) == "failed"
    assert set(states.values()) == {"finished"}
    (failed,) = (trial for trial in found.trials if trial.state == "failed")
    assert "nesterov needs momentum > 0" in (failed.cause or "")


def test_without_validation_rows_trials_are_compared_by_rows_that_none_is_trained_on(
    tmp_path: Path,
) -> None:
    found = search(tmp_path, "data.validation=0", hold_out=0.25, trials=1)
    [trial] = found.trials
    folder = trial_folder(found.folder, 0) / "student" / "distilled" / "seed-0"
    result = read_result(folder)
    assert result is not None
    assert result.recipe["train"]["hold_out"] == 0.25
    rows = read_manifest(tmp_path / "tiny" / "transfer_set").plan.splits["train"].rows
    assert trial.metrics["rows"] == round(0.25 * rows)
    assert found.best[0]["test"]["rows"] == TEST
    assert (
        "Validation rows are 25 % of the transfer set" in (found.folder / "report.html").read_text()
    )


def test_with_validation_rows_nothing_is_held_out() -> None:
    recipe = trial_recipe(swept_recipe(hold_out=0.25), {})
    assert (recipe.data.validation, recipe.train.hold_out) == (VALIDATION, 0.0)


def test_the_quickstart_can_be_searched_and_is_what_it_was_without_a_sweep() -> None:
    recipe = open_recipe("quickstart")
    assert check_sweep(recipe).trials == 8
    assert (recipe.data.validation, recipe.train.hold_out) == (0, 0.0)
