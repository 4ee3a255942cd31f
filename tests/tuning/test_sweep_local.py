import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
import pytest
import torch
from tiny import ALONE
from tiny_sweep import (
    FAIR,
    GOOD,
    POOR,
    RATE,
    TEST,
    VALIDATION,
    C,
    Moment,
    T,
    begins,
    ends,
    entries,
    killed,
    refused,
    reports,
    search,
    swept_recipe,
    teach,
)

from kd_ray.artefacts import evaluate_checkpoint
from kd_ray.artefacts import inspect as look
from kd_ray.checkpoint import META
from kd_ray.config import SoftWeight
from kd_ray.errors import CheckpointError, ConfigError, KdRayError, TrainingError
from kd_ray.loop import Epoch
from kd_ray.stages import Started, perform_abreast, perform_all, read_result
from tuning import open_sweep
from tuning.driver import check_sweep
from tuning.outcome import Sweep
from tuning.trial import TrialEnd, TrialEpoch, told, trial_folder, trial_tasks
from tuning.trials import SweepBegins, SweepEvent, TrialBegins, TrialOver, TrialReport, Trials

WILD = {T: 4.0, C: "T^2", RATE: 1e30}
ON_LABELS = {C: 0, RATE: 0.02}
MIXED = {
    "space": {
        T: {"log_uniform": [1, 20]},
        C: {"log_uniform": [0.1, 10], "times": "T^2", "or_zero": True},
        RATE: {"log_uniform": [0.001, 1e30]},
    },
    "enqueue": [GOOD, POOR, WILD, ON_LABELS],
    "scheduler": "asha",
    "grace": 1,
    "reduction": 2,
    "trials": 4,
}
"""Four trials: the winner, one stopped early, one that diverges, and one without a soft term."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for another writer: in these tests there is none."""
    monkeypatch.setattr("kd_ray.stages.ORPHAN_WAIT_S", 0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a teacher and a transfer set; never changed."""
    torch.set_num_threads(1)
    return teach(tmp_path_factory.mktemp("base"))


@pytest.fixture
def runs(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "runs"))


@pytest.fixture(scope="module")
def mixed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, list[SweepEvent]]:
    """A finished sweep whose trials end in every way, and its events; never changed."""
    torch.set_num_threads(1)
    seen: list[SweepEvent] = []
    runs = Path(shutil.copytree(base, tmp_path_factory.mktemp("mixed"), dirs_exist_ok=True))
    return search(runs, listener=seen.append, **MIXED), seen


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three random trials that nothing interrupted."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("undisturbed")
    return search(Path(shutil.copytree(base, runs, dirs_exist_ok=True)))


def test_trials_end_as_they_should(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    states = [trial.state for trial in found.trials]
    assert states == ["finished", "stopped", "failed", "finished"]
    assert [trial.epochs for trial in found.trials] == [3, 1, 0, 3]
    assert [trial.settings for trial in found.trials] == [GOOD, POOR, WILD, ON_LABELS]
    assert [len(trial.history) for trial in found.trials] == [3, 1, 0, 3]
    assert [bool(trial.values) for trial in found.trials] == [True, False, False, True]
    assert found.trials[0].values == (found.trials[0].history[3],)


def test_a_trial_that_diverges_has_failed_with_its_cause_and_the_sweep_goes_on(
    mixed: tuple[Sweep, list[SweepEvent]],
) -> None:
    cause = mixed[0].trials[2].cause
    assert cause is not None
    assert cause.startswith("epoch 1: the loss must be finite, but is ")
    assert mixed[0].trials[3].state == "finished"


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
        1: ["begins", 1, "stopped"],
        2: ["begins", "failed"],
        3: ["begins", 1, 2, 3, "finished"],
    }


def test_the_study_opens_in_optuna_as_it_is(mixed: tuple[Sweep, list[SweepEvent]]) -> None:
    found = mixed[0]
    storage = f"sqlite:///{found.folder / 'study.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert study.best_trial.number == found.front[0].number == 0
    assert study.trials[1].intermediate_values == found.trials[1].history


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
    assert rows[3][T] is None


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
    assert (entry["trial"], entry["settings"]) == (0, GOOD)
    assert (entry["validation"]["rows"], entry["test"]["rows"]) == (VALIDATION, TEST)
    assert entry["validation"] == found.trials[0].metrics
    checkpoint = found.folder.parent / entry["checkpoints"][0]
    measured = evaluate_checkpoint(checkpoint)
    assert entry["test"]["accuracy"] == measured["accuracy"]
    assert entry["recipe"]["train"]["lr"] == GOOD[RATE]
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
        result["parents"]["transfer_set"]
        == read_result(found.folder.parent / "transfer_set")["sha256"]
    )  # type: ignore[index]


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
    assert seen == [SweepBegins(over=4, left=0, best=(0, found.trials[0].values[0]))]
    assert entries(again) == entries(found)
    assert again.best == found.best


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
    answer = refused_or_told("best", runs / "tiny")
    assert "tiny: the best trial" in answer


def refused_or_told(*arguments: Any) -> str:
    """What a command says that must not end in a traceback."""
    from tiny_sweep import command

    answer = command(*arguments)
    assert answer.exit_code in (0, 2), (answer.output, answer.exception)
    return answer.output


def test_seeds_of_a_trial_count_by_their_mean(runs: Path) -> None:
    found = search(runs, trials=1, enqueue=[GOOD], seeds=[3, 5])
    (trial,) = found.trials
    students = trial_folder(found.folder, 0) / "student" / "distilled"
    assert sorted(folder.name for folder in students.iterdir()) == ["seed-3", "seed-5"]
    results: list[dict[str, Any]] = [read_result(students / f"seed-{n}") or {} for n in (3, 5)]
    for name in ("accuracy", "loss", "divergence"):
        figures = [result["metrics"][name] for result in results]
        assert figures[0] != figures[1]
        assert trial.metrics[name] == pytest.approx(sum(figures) / 2, rel=1e-12)
    for epoch, value in trial.history.items():
        figures = [result["history"][epoch - 1]["accuracy"] for result in results]
        assert value == pytest.approx(sum(figures) / 2, rel=1e-12)
    (entry,) = found.best
    assert len(entry["tests"]) == len(entry["checkpoints"]) == 2
    mean = sum(test["accuracy"] for test in entry["tests"]) / 2
    assert entry["test"]["accuracy"] == pytest.approx(mean, rel=1e-12)


def students_of(base: Path, folder: Path, seeds: str = "[0, 1]", **changes: Any) -> list[Any]:
    """The tasks of one trial."""
    recipe = swept_recipe(f"train.seeds={seeds}", *changes.pop("overrides", ()))
    return trial_tasks(
        recipe.model_copy(update={"sweep": None}),
        folder,
        0,
        transfer_set=base / "tiny" / "transfer_set",
        data_root=None,
    )


def test_students_abreast_are_never_an_epoch_apart_and_come_out_as_one_after_another(
    base: Path, tmp_path: Path
) -> None:
    tasks = students_of(base, tmp_path / "abreast", "[0, 1, 2]")
    done = {task.title: 0 for task in tasks}
    for task, event in perform_abreast(tasks, ALONE):
        if isinstance(event, Epoch):
            done[task.title] = event.number
            assert max(done.values()) - min(done.values()) <= 1
    assert set(done.values()) == {3}
    ordered = students_of(base, tmp_path / "ordered", "[0, 1, 2]")
    list(perform_all(ordered, ALONE))
    for one, other in zip(tasks, ordered, strict=True):
        results = [read_result(task.folder) or {} for task in (one, other)]
        assert results[0]["weights_sha256"] == results[1]["weights_sha256"]


def test_students_abreast_go_on_with_the_one_that_is_behind(base: Path, tmp_path: Path) -> None:
    """Killed after the first has two epochs and the second one."""
    tasks = students_of(base, tmp_path)
    events = perform_abreast(tasks, ALONE)
    epochs = (event for _, event in events if isinstance(event, Epoch))
    assert [next(epochs).number for _ in range(3)] == [1, 1, 2]
    events.close()
    again = [
        (task.seed, event.number if isinstance(event, Epoch) else event.done)
        for task, event in perform_abreast(tasks, ALONE)
        if isinstance(event, Epoch | Started)
    ]
    assert again[:3] == [(0, 2), (1, 1), (1, 2)]


def test_a_trial_that_goes_on_between_two_students_tells_means_of_one_epoch_only(
    base: Path, tmp_path: Path
) -> None:
    def perform(tasks: Any) -> Any:
        return perform_abreast(tasks, ALONE)

    whole = list(told(students_of(base, tmp_path / "whole"), perform))
    assert [type(event) for event in whole] == [TrialEpoch] * 3 + [TrialEnd]
    accuracy = {e.number: e.metrics["accuracy"] for e in whole if isinstance(e, TrialEpoch)}
    tasks = students_of(base, tmp_path / "killed")
    events = perform_abreast(tasks, ALONE)
    epochs = (event for _, event in events if isinstance(event, Epoch))
    for _ in range(3):
        next(epochs)
    events.close()
    again = list(told(tasks, perform))
    for event in again:
        if isinstance(event, TrialEpoch):
            assert event.metrics["accuracy"] == accuracy[event.number]
    last, expected = again[-1], whole[-1]
    assert isinstance(last, TrialEnd)
    assert isinstance(expected, TrialEnd)
    assert last.metrics == expected.metrics
    assert [record["accuracy"] for record in last.history] == list(accuracy.values())


def test_a_trials_end_crosses_a_border_of_processes_unchanged() -> None:
    end = TrialEnd({"accuracy": 0.1}, [{"accuracy": 1 / 3}], 1, 0.25)
    assert TrialEnd.read(end.written()) == end
    assert TrialEnd.read(TrialEnd(cause="it was lost").written()).cause == "it was lost"


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


@pytest.mark.parametrize(
    "moment",
    [begins(0), reports(1, 1), reports(1, 3), ends(1), begins(2)],
    ids=["at once", "mid-trial", "before the end", "between trials", "last trial"],
)
def test_a_sweep_of_given_points_comes_out_the_same_wherever_it_was_interrupted(
    base: Path, runs: Path, tmp_path: Path, moment: Moment
) -> None:
    points = [GOOD, FAIR, POOR]
    killed(runs, moment, enqueue=points)
    seen: list[SweepEvent] = []
    found = search(runs, enqueue=points, listener=seen.append)
    whole = search(Path(shutil.copytree(base, tmp_path / "whole")), enqueue=points)
    assert entries(found) == entries(whole)
    assert found.best[0]["weights_sha256"] == whole.best[0]["weights_sha256"]
    assert isinstance(seen[0], SweepBegins)
    begun = [event.point.number for event in seen if isinstance(event, TrialBegins)]
    assert begun == list(range(seen[0].over, 3))
    assert seen[0].over + seen[0].left == 3


@pytest.mark.parametrize("moment", [reports(0, 2), ends(0), begins(1)])
def test_a_random_sweep_comes_out_the_same_wherever_it_was_interrupted(
    undisturbed: Sweep, runs: Path, moment: Moment
) -> None:
    killed(runs, moment)
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
    assert "cannot be read as part of a checkpoint" in (found.trials[1].cause or "")


def test_values_that_do_not_go_together_are_a_failed_trial(runs: Path) -> None:
    """Each is fine alone: SGD with the recipe's momentum, and Adam without any."""
    space = {"train.optimizer": {"choice": ["adam", "sgd"]}, "train.momentum": {"choice": [0, 0.9]}}
    found = search(runs, space=space, sampler="grid", trials=4)
    states = {tuple(t.settings.values()): t.state for t in found.trials}
    assert states.pop(("sgd", 0)) == "failed"
    assert set(states.values()) == {"finished"}
    (failed,) = (trial for trial in found.trials if trial.state == "failed")
    assert "nesterov needs momentum > 0" in (failed.cause or "")


def test_a_trial_that_ends_without_its_metric_is_told_as_a_failure(runs: Path) -> None:
    seen: list[SweepEvent] = []
    killed(runs, begins(0))
    from kd_ray.transfer_set import read_manifest
    from tuning.driver import sweep_identity
    from tuning.ledger import Ledger

    recipe, folder = swept_recipe(), runs / "tiny" / "sweep"
    transfer_set = runs / "tiny" / "transfer_set"
    ledger = Ledger(folder, recipe, sweep_identity(recipe, read_manifest(transfer_set)))
    trials = Trials(recipe, ledger, folder, transfer_set, None, seen.append)
    handed = trials.next()
    assert handed is not None
    trials.ended(handed[0], TrialEnd(metrics={"loss": 1.0}, history=[{"loss": 1.0}], epochs=1))
    over = seen[-1]
    assert isinstance(over, TrialOver)
    assert (over.state, ledger.failures) == ("failed", 1)
    assert "accuracy" in (over.cause or "")


WILDLY = {"space": {RATE: {"choice": [1e30, 1e31, 0.01]}}, "sampler": "grid", "max_failures": 1}


def test_too_many_failures_end_the_sweep_with_the_last_cause(runs: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        search(runs, **WILDLY)
    said = str(caught.value)
    assert "2 trials failed, and sweep.max_failures is 1; the last because: epoch 1: " in said
    assert "\n" not in said
    assert [trial.state for trial in open_sweep(runs / "tiny").trials] == ["failed", "failed"]
    seen: list[SweepEvent] = []
    with pytest.raises(TrainingError, match="2 trials failed"):
        search(runs, listener=seen.append, **WILDLY)
    assert [event for event in seen if isinstance(event, TrialBegins)] == []
    found = search(runs, **{**WILDLY, "max_failures": 2})
    assert [trial.state for trial in found.trials] == ["failed", "failed", "finished"]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (("train.epochs=4",), "train.epochs is 3 there and 4 here"),
        (("objective.hard_weight=0.5",), "objective.hard_weight is 1.0 there and 0.5 here"),
        (("sweep.seed=1",), "sweep.seed is 0 there and 1 here"),
        (("sweep.scheduler=median",), "sweep.scheduler is 'none' there and 'median' here"),
        (("student.quantizer.weight_bits=32",), "student.quantizer"),
    ],
)
def test_a_sweep_of_another_recipe_is_refused_and_left_as_it_was(
    undisturbed: Sweep, tmp_path: Path, overrides: tuple[str, ...], difference: str
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    before = files_of(tmp_path / "tiny" / "sweep")
    if "quantizer" in overrides[0]:
        overrides = ("student.quantizer.first_last_float=false", *overrides)
    with pytest.raises(CheckpointError) as caught:
        search(tmp_path, *overrides)
    assert difference in str(caught.value)
    assert files_of(tmp_path / "tiny" / "sweep") == before


def test_a_transfer_set_that_changed_under_a_sweep_is_refused(
    undisturbed: Sweep, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "transfer_set")
    with pytest.raises(CheckpointError, match="transfer_set is '"):
        search(tmp_path, "transfer_set.dtype='float32'", trials=4)
    assert len(open_sweep(tmp_path / "tiny").trials) == 3


def test_a_recipe_without_a_sweep_is_refused(tmp_path: Path) -> None:
    recipe = swept_recipe().model_copy(update={"sweep": None})
    with pytest.raises(ConfigError, match=r"a sweep needs a \[sweep\.space\] table"):
        check_sweep(recipe)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"overrides": ("data.validation=0",)}, "data.validation is 0; carve some from"),
        ({"space": {"train.lrr": {"choice": [1]}}}, "did you mean 'lr'?"),
        ({"space": {RATE: {"choice": [0]}}}, "train.lr: input should be greater than 0"),
        ({"enqueue": [{RATE: 5.0}]}, "sweep.enqueue: train.lr = 5.0 lies outside the space"),
        (
            {"sampler": "grid", "space": {RATE: {"choice": [0.01]}}, "trials": 2},
            "the grid has 1 points, but 2 trials were asked for",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    overrides = options.pop("overrides", ())
    with pytest.raises(ConfigError) as caught:
        search(tmp_path / "runs", *overrides, **options)
    assert sentence in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_on_a_transfer_set_that_exists_already_is_the_same(
    undisturbed: Sweep, base: Path, tmp_path: Path
) -> None:
    path = f"transfer_set.path='{base / 'tiny' / 'transfer_set'}'"
    found = search(tmp_path, path)
    assert entries(found) == entries(undisturbed)
    assert not (tmp_path / "tiny" / "transfer_set").exists()


def test_a_finished_transfer_set_without_validation_rows_is_refused(tmp_path: Path) -> None:
    from kd_ray.pipeline import run

    recipe = swept_recipe("data.validation=0").model_copy(update={"sweep": None})
    run(recipe, runs=tmp_path, stages=("teach", "label"), local=True)
    path = tmp_path / "tiny" / "transfer_set"
    with pytest.raises(
        ConfigError, match="trials are compared by validation rows, but .* has none"
    ):
        search(tmp_path / "other", f"transfer_set.path='{path}'")


def test_a_sweep_that_another_process_runs_is_refused(runs: Path) -> None:
    from kd_ray.files import locked

    with locked(runs / "tiny" / "sweep"), pytest.raises(KdRayError, match="is using it"):
        search(runs)


@pytest.mark.parametrize("content", [b"", b"no database at all " * 400])
def test_a_damaged_study_is_answered_with_one_sentence(
    undisturbed: Sweep, tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    (tmp_path / "tiny" / "sweep" / "study.db").write_bytes(content)
    for name in ("show", "best"):
        assert "study.db" in refused(name, tmp_path / "tiny")
