import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_table

from kd_ray.config.read import parse_recipe
from kd_ray.errors import CheckpointError, ConfigError, StorageError
from tuning.ledger import STUDY, Ledger, Point

T, RATE, HIDDEN = "objective.temperature", "train.lr", "student.model.hidden"
SPACE = {T: {"log_uniform": [1, 20]}, RATE: {"uniform": [0.1, 0.2]}}
GRID = {T: {"choice": [1, 2, 4]}, HIDDEN: {"choice": [[8], [9]]}}
IDENTITY = {"train.epochs": 4, "transfer_set": "a"}
ONE = {"accuracy": 0.5}


MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: every step of a ledger waits for its file system."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as found:
        yield Path(found)


def opened(folder: Path, identity: dict[str, Any] | None = None, **sweep: Any) -> Ledger:
    """The ledger of a random search without known-good points, unless told otherwise."""
    table = tiny_table()
    table["sweep"] = {"space": SPACE, "sampler": "random", "enqueue": [], **sweep}
    return Ledger(folder, parse_recipe(table, "tiny"), identity or IDENTITY)


def study(folder: Path) -> optuna.Study:
    """What anybody sees who opens the file."""
    return optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder / STUDY}")


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in study(folder).trials]


def handed(ledger: Ledger) -> Point:
    """The next trial, which there must be."""
    point = ledger.next()
    assert point is not None
    return point


def play(ledger: Ledger) -> list[Point]:
    """Completes every trial that is left."""
    points = []
    while (point := ledger.next()) is not None:
        ledger.complete(point.number, ONE, {})
        points.append(point)
    return points


@pytest.mark.parametrize(("trials", "enqueue"), [(3, []), (2, [{T: 2.0}, {T: 3.0}, {T: 4.0}])])
def test_there_are_exactly_as_many_trials_as_were_asked_for(
    folder: Path, trials: int, enqueue: list[dict[str, float]]
) -> None:
    ledger = opened(folder, trials=trials, enqueue=enqueue)
    assert ledger.left == trials
    assert [point.number for point in play(ledger)] == list(range(trials))
    assert (ledger.left, ledger.handed_out, ledger.next()) == (0, trials, None)
    assert states(folder).count("COMPLETE") == trials


class Mortal:
    """A driver of three trials that may die, and remembers across its lives what must hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: dict[int, Point] = {}
        self.running: set[int] = set()
        self.ended: dict[int, str] = {}
        self.die()

    def die(self) -> None:
        self.ledger = opened(self.folder, trials=3)
        self.running = set()

    def ask(self) -> bool:
        point = self.ledger.next()
        if point is None:
            return False
        assert point.number not in self.ended
        assert point.number not in self.running
        assert point.resumed == (point.number in self.begun)
        before = self.begun.setdefault(point.number, point)
        assert (point.parameters, point.settings) == (before.parameters, before.settings)
        self.running.add(point.number)
        return True

    def end(self, state: str) -> None:
        if not self.running:
            return
        number = min(self.running)
        if state == "COMPLETE":
            self.ledger.complete(number, ONE, {})
        elif state == "FAIL":
            self.ledger.fail(number, "because")
        else:
            self.ledger.prune(number, {})
        self.running.remove(number)
        self.ended[number] = state

    @property
    def left(self) -> int:
        return 3 - len(self.ended) - len(self.running)


@settings(max_examples=4)
@given(st.lists(st.sampled_from(["ask", "die", "COMPLETE", "FAIL", "PRUNED"]), max_size=10))
def test_a_driver_may_die_at_any_moment_and_every_trial_still_ends_once(moves: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        driver = Mortal(Path(folder))
        for move in moves:
            if move == "ask":
                driver.ask()
            elif move == "die":
                driver.die()
            else:
                driver.end(move)
            assert driver.ledger.left == driver.left
        while driver.ask():
            pass
        while driver.running:
            driver.end("COMPLETE")
        assert states(Path(folder)) == [driver.ended[number] for number in range(3)]


def test_a_trial_that_was_begun_and_given_nothing_yet_is_handed_out_whole(folder: Path) -> None:
    opened(folder, trials=2).study.ask()  # a driver killed right after this
    ledger = opened(folder, trials=2)
    first = handed(ledger)
    assert (first.number, first.resumed) == (0, True)
    assert set(first.parameters) == {T, RATE}
    assert handed(ledger).number == 1
    assert ledger.next() is None


def test_points_are_tried_first_in_order_and_never_twice(folder: Path) -> None:
    points = [{T: 2.0, RATE: 0.11}, {T: 3.0, RATE: 0.12}, {T: 4.0, RATE: 0.13}]
    ledger = opened(folder, trials=5, enqueue=points)
    found = [dict(handed(ledger).parameters)]
    ledger.complete(0, ONE, {})
    found += [dict(point.parameters) for point in play(opened(folder, trials=5, enqueue=points))]
    assert found[:3] == points
    assert len(found) == 5
    assert all(point not in points for point in found[3:])


def test_points_that_a_killed_driver_had_not_written_down_yet_are_tried_as_well(
    folder: Path,
) -> None:
    points = [{T: 2.0}, {T: 3.0}, {T: 4.0}]
    begun = optuna.create_study(
        study_name="tiny", storage=f"sqlite:///{folder / STUDY}", directions=["maximize"]
    )
    begun.enqueue_trial(points[0])
    found = play(opened(folder, trials=4, enqueue=points))
    assert [point.parameters[T] for point in found[:3]] == [2.0, 3.0, 4.0]
    assert len(found) == 4


def test_asking_for_more_trials_goes_on_and_for_fewer_takes_none_away(folder: Path) -> None:
    play(opened(folder, trials=2))
    before = study(folder).trials
    assert [point.number for point in play(opened(folder, trials=4))] == [2, 3]
    assert study(folder).trials[:2] == before
    fewer = opened(folder, trials=1)
    assert (fewer.left, fewer.next(), fewer.handed_out) == (0, None, 4)


def test_a_ledger_is_a_study_that_optuna_opens(folder: Path) -> None:
    ledger = opened(folder, trials=5, scheduler="asha")
    for number in range(4):
        assert handed(ledger).number == number
        ledger.report(number, 1, 0.25)
    ledger.complete(0, {"accuracy": 0.75, "loss": 1.0}, {"epochs": 1, "metrics": {"loss": 1.0}})
    ledger.prune(1, {"epochs": 1})
    ledger.fail(2, "the loss must be finite", {"epochs": 1})
    found = study(folder).trials
    assert [trial.state.name for trial in found] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert found[0].values == [0.75]
    assert found[0].user_attrs == {"epochs": 1, "metrics": {"loss": 1.0}}
    assert all(trial.intermediate_values == {1: 0.25} for trial in found)
    assert found[2].user_attrs == {"epochs": 1, "cause": "the loss must be finite"}
    assert study(folder).best_trial.number == 0
    assert (ledger.failures, ledger.left) == (1, 1)


def test_several_objectives_are_named_in_the_study_and_have_no_epochs(folder: Path) -> None:
    metrics = ["accuracy", "packed_bytes"]
    ledger = opened(folder, trials=2, metric=metrics)
    for accuracy, size in ((0.5, 100.0), (0.75, 200.0)):
        point = handed(ledger)
        assert ledger.report(point.number, 1, accuracy) is False
        ledger.complete(point.number, {"packed_bytes": size, "accuracy": accuracy}, {})
    found = study(folder)
    assert found.metric_names == metrics
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in found.trials] == [[0.5, 100.0], [0.75, 200.0]]
    assert len(found.best_trials) == 2


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"accuracy": float("nan")}])
def test_a_trial_without_its_metric_is_a_failure_that_says_so(
    folder: Path, values: dict[str, Any]
) -> None:
    ledger = opened(folder, trials=1)
    ledger.complete(handed(ledger).number, values, {"epochs": 3})
    (found,) = study(folder).trials
    assert found.state.name == "FAIL"
    assert found.values is None
    assert "accuracy" in found.user_attrs["cause"]
    assert found.user_attrs["epochs"] == 3


def test_one_missing_metric_of_several_is_a_failure(folder: Path) -> None:
    ledger = opened(folder, trials=1, metric=["accuracy", "packed_bytes"])
    ledger.complete(handed(ledger).number, ONE, {})
    assert states(folder) == ["FAIL"]
    assert study(folder).trials[0].user_attrs["cause"] == "the trial ended without packed_bytes"


def test_a_ledger_gives_up_after_more_failures_than_are_put_up_with(folder: Path) -> None:
    ledger = opened(folder, trials=4, max_failures=1)
    for failure in range(2):
        assert not ledger.gave_up
        ledger.fail(handed(ledger).number, f"cause {failure}")
    assert ledger.gave_up
    assert opened(folder, trials=4, max_failures=1).gave_up
    assert not opened(folder, trials=4, max_failures=2).gave_up


def test_a_ledger_of_another_recipe_is_refused_with_what_differs(folder: Path) -> None:
    play(opened(folder, trials=1))
    before = study(folder).trials
    for key, value in (("train.epochs", 9), ("transfer_set", "b")):
        with pytest.raises(CheckpointError, match=STUDY) as caught:
            opened(folder, {**IDENTITY, key: value}, trials=3)
        there = repr(IDENTITY[key])
        assert f"{key} is {there} there and {value!r} here" in str(caught.value)
    assert study(folder).trials == before
    assert len(play(opened(folder, dict(IDENTITY), trials=2))) == 1


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        *(("tpe", "asha"), ("random", "median"), ("grid", "none")),
        *(("nsga2", "asha"), ("gp", "median")),
    ],
)
def test_every_sampler_and_scheduler_stays_in_the_space_and_ends_after_a_dozen_trials(
    folder: Path, sampler: str, scheduler: str
) -> None:
    """The best temperature is 7; a driver dies after half of the trials."""
    space = {
        T: {"choice": [1, 5, 20]} if sampler == "grid" else {"log_uniform": [1, 20]},
        HIDDEN: {"choice": [[8], [16, 16]]},
        RATE: {"choice": [0.1, 0.2]},
    }
    sweep = {"sampler": sampler, "scheduler": scheduler, "space": space, "grace": 1, "trials": 12}
    stopped = []
    points: list[Point] = []
    ledger = opened(folder, **sweep)
    while (point := ledger.next()) is not None:
        points.append(point)
        value = 1 / (1 + abs(point.parameters[T] - 7))
        if any(ledger.report(point.number, epoch, value) for epoch in (1, 2)):
            stopped.append(point.number)
            ledger.prune(point.number, {})
        else:
            ledger.complete(point.number, {"accuracy": value}, {})
        if len(points) == 6:
            ledger = opened(folder, **sweep)
    assert [point.number for point in points] == list(range(12))
    assert states(folder) == ["PRUNED" if n in stopped else "COMPLETE" for n in range(12)]
    assert (len(stopped) > 0) == (scheduler != "none")
    for point in points:
        assert 1 <= point.settings[T] <= 20
        assert point.settings[HIDDEN] in ([8], [16, 16])
    assert len({str(point.settings) for point in points}) == 12
    best = max(points, key=lambda point: -abs(point.parameters[T] - 7))
    assert study(folder).best_trial.number == best.number


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_every_sampler_takes_several_objectives(folder: Path, sampler: str) -> None:
    ledger = opened(folder, sampler=sampler, metric=["accuracy", "packed_bytes"], trials=12)
    while (point := ledger.next()) is not None:
        cost = point.parameters[T]
        ledger.complete(point.number, {"accuracy": 1 - 1 / cost, "packed_bytes": cost}, {})
    assert states(folder) == ["COMPLETE"] * 12


def test_a_seed_is_a_sequence_of_points(folder: Path) -> None:
    def parameters(name: str, **sweep: Any) -> list[dict[str, Any]]:
        return [dict(point.parameters) for point in play(opened(folder / name, **sweep))]

    first = parameters("a", trials=3)
    assert parameters("b", trials=3) == first
    other = parameters("c", trials=3, seed=1)
    assert all(point not in first for point in other)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_points_do_not_depend_on_where_a_driver_died(folder: Path, sampler: str) -> None:
    whole = play(opened(folder / "whole", trials=4, sampler=sampler))
    ledger = opened(folder / "died", trials=4, sampler=sampler)
    ledger.complete(handed(ledger).number, ONE, {})
    handed(ledger)
    play(opened(folder / "died", trials=4, sampler=sampler))
    found = study(folder / "died").trials
    assert [trial.params for trial in found] == [dict(point.parameters) for point in whole]


def test_a_sweep_that_goes_on_does_not_repeat_points(folder: Path) -> None:
    for trials in (2, 4):
        play(opened(folder, trials=trials))
    assert len({str(trial.params) for trial in study(folder).trials}) == 4


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_asha_lets_the_best_of_each_rung_go_on(folder: Path, metric: str) -> None:
    """Li et al. 2020: of n that have come to a rung, the best n / reduction pass, and the first."""
    ledger = opened(
        folder, trials=9, scheduler="asha", grace=2, reduction=3, space=SPACE, metric=metric
    )
    order = [4, 1, 8, 2, 5, 7, 9, 3, 6]
    sign = 1 if metric == "accuracy" else -1
    seen: list[int] = []
    going = []
    for value in order:
        number = handed(ledger).number
        assert not ledger.report(number, 1, sign * value)
        seen.append(value)
        passes = value in sorted(seen)[-max(1, len(seen) // 3) :]
        assert ledger.report(number, 2, sign * value) == (not passes)
        if passes:
            going.append((number, value))
            assert not ledger.report(number, 3, sign * value)
        else:
            ledger.prune(number, {})
    assert [value for _, value in going] == [4, 8, 7, 9]
    # The next rung lies at 2 * 3 epochs and compares those that have come to it.
    for number, value in going:
        assert not ledger.report(number, 5, sign * value)
    stops = [ledger.report(number, 6, sign * value) for number, value in going]
    assert stops == [False, False, True, False]


def test_asha_remembers_its_rungs_when_it_goes_on(folder: Path) -> None:
    sweep = {"trials": 4, "scheduler": "asha", "grace": 1, "reduction": 2}
    ledger = opened(folder, **sweep)
    for value in (0.5, 0.75):
        number = handed(ledger).number
        assert not ledger.report(number, 1, value)
        ledger.complete(number, {"accuracy": value}, {})
    again = opened(folder, **sweep)
    assert again.report(handed(again).number, 1, 0.6)
    assert not again.report(handed(again).number, 1, 0.8)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("grace", [1, 3])
def test_a_hopeless_trial_is_stopped_after_the_epochs_of_grace_and_not_before(
    folder: Path, scheduler: str, grace: int
) -> None:
    """Median stops nothing before five trials have finished."""
    ledger = opened(folder, trials=6, scheduler=scheduler, grace=grace)
    for _ in range(5 if scheduler == "median" else 1):
        number = handed(ledger).number
        for epoch in range(1, grace + 1):
            ledger.report(number, epoch, 0.9)
        ledger.complete(number, {"accuracy": 0.9}, {})
    number = handed(ledger).number
    stops = [ledger.report(number, epoch, 0.1) for epoch in range(1, grace + 1)]
    assert stops == [False] * (grace - 1) + [True]


def test_without_a_scheduler_nothing_is_stopped(folder: Path) -> None:
    ledger = opened(folder, trials=6, scheduler="none", grace=1)
    for value in (0.9, 0.8, 0.7, 0.6, 0.5, 0.1):
        number = handed(ledger).number
        assert not any(ledger.report(number, epoch, value) for epoch in (1, 2, 3))
        ledger.complete(number, {"accuracy": value}, {})


def test_an_epoch_that_was_noted_before_a_kill_keeps_its_value(folder: Path) -> None:
    ledger = opened(folder, trials=1)
    ledger.report(handed(ledger).number, 1, 0.25)
    again = opened(folder, trials=1)
    number = handed(again).number
    again.report(number, 1, 0.5)
    again.report(number, 2, 0.75)
    again.complete(number, {"accuracy": 0.75}, {})
    assert study(folder).trials[0].intermediate_values == {1: 0.25, 2: 0.75}


def test_a_grid_is_gone_through_once_whatever_dies(folder: Path) -> None:
    sweep = {"sampler": "grid", "space": GRID, "scheduler": "none"}
    found = []
    for trials in (2, 2, 6):
        ledger = opened(folder, trials=trials, **sweep)
        found += [point.settings for point in play(ledger)]
    assert found == [{T: t, HIDDEN: hidden} for t in (1, 2, 4) for hidden in ([8], [9])]


def test_a_grid_that_is_smaller_than_what_was_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(folder, sampler="grid", space=GRID, trials=7)
    assert str(caught.value) == (
        "sweep.trials: the grid has 6 points, but 7 trials were asked for; use 6, or another "
        "sampler"
    )
    assert not (folder / STUDY).exists()


def test_a_corrupt_study_is_answered_with_one_sentence(folder: Path) -> None:
    content = b"no database at all " * 400
    (folder / STUDY).write_bytes(content)
    with pytest.raises(StorageError) as caught:
        opened(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder / STUDY}: ")
    assert "file is not a database" in said
    assert "\n" not in said
    assert (folder / STUDY).read_bytes() == content


def test_a_study_cut_short_is_answered_with_one_sentence(folder: Path) -> None:
    play(opened(folder, trials=1))
    file = folder / STUDY
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(StorageError, match="must be a readable and writable SQLite file"):
        play(opened(folder, trials=3))
