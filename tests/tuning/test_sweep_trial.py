from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import ALONE, result_at
from tiny_sweep import swept_recipe

from kd_ray.errors import TrainingError
from kd_ray.runs import Inputs, Started, Task, perform_all, perform_interleaved
from kd_ray.training.progress import Epoch, Step
from kd_ray.transfer_set import read_manifest
from tuning.driver import sweep_identity
from tuning.ledger import Ledger
from tuning.trial import Block, TrialEnd, TrialEpoch, perform_side_by_side, trial_tasks
from tuning.trials import SweepEvent, TrialOver, Trials


def students_of(base: Path, folder: Path, seeds: str, *overrides: str) -> list[Task]:
    """The tasks of one trial."""
    recipe = swept_recipe(f"train.seeds={seeds}", *overrides).model_copy(update={"sweep": None})
    transfer_set = base / "tiny" / "transfer_set"
    return trial_tasks(recipe, folder, 0, transfer_set=transfer_set, data_root=None)


def told(tasks: list[Task]) -> list[Any]:
    """What is told of a trial from where it is."""
    block = Block({0: tasks}, partial(perform_side_by_side, ALONE, Inputs(), 1))
    return [report for _, report in block.reports()]


def test_students_abreast_are_never_an_epoch_apart_and_come_out_as_one_after_another(
    base: Path, tmp_path: Path
) -> None:
    tasks = students_of(base, tmp_path / "interleaved", "[0, 1, 2]")
    done = {task.title: 0 for task in tasks}
    for task, event in perform_interleaved(tasks, ALONE):
        if isinstance(event, Epoch):
            done[task.title] = event.number
            assert max(done.values()) - min(done.values()) <= 1
    assert set(done.values()) == {3}
    ordered = students_of(base, tmp_path / "ordered", "[0, 1, 2]")
    list(perform_all(ordered, ALONE))
    for one, other in zip(tasks, ordered, strict=True):
        assert result_at(one.folder).weights_sha256 == result_at(other.folder).weights_sha256


def test_students_abreast_go_on_with_the_one_that_is_behind(base: Path, tmp_path: Path) -> None:
    """Killed after the first has two epochs and the second one."""
    tasks = students_of(base, tmp_path, "[0, 1]")
    events = perform_interleaved(tasks, ALONE)
    epochs = (event for _, event in events if isinstance(event, Epoch))
    assert [next(epochs).number for _ in range(3)] == [1, 1, 2]
    events.close()
    again = [
        (task.seed, event.number if isinstance(event, Epoch) else event.done)
        for task, event in perform_interleaved(tasks, ALONE)
        if isinstance(event, Epoch | Started)
    ]
    assert again[:3] == [(0, 2), (1, 1), (1, 2)]


def test_a_trial_that_goes_on_between_two_students_tells_means_of_one_epoch_only(
    base: Path, tmp_path: Path
) -> None:
    whole = told(students_of(base, tmp_path / "whole", "[0, 1]"))
    assert [type(event) for event in whole] == [TrialEpoch] * 3 + [TrialEnd]
    accuracy = {e.number: e.metrics["accuracy"] for e in whole if isinstance(e, TrialEpoch)}
    tasks = students_of(base, tmp_path / "killed", "[0, 1]")
    events = perform_interleaved(tasks, ALONE)
    epochs = (event for _, event in events if isinstance(event, Epoch))
    for _ in range(3):
        next(epochs)
    events.close()
    again = told(tasks)
    for event in again:
        if isinstance(event, TrialEpoch):
            assert event.metrics["accuracy"] == accuracy[event.number]
    last, expected = again[-1], whole[-1]
    assert isinstance(last, TrialEnd)
    assert isinstance(expected, TrialEnd)
    assert last.metrics == expected.metrics
    assert [record["accuracy"] for record in last.history] == list(accuracy.values())


def test_a_trial_that_ends_without_its_metric_is_told_as_a_failure(runs: Path) -> None:
    seen: list[SweepEvent] = []
    recipe, folder = swept_recipe(), runs / "tiny" / "sweep"
    transfer_set = runs / "tiny" / "transfer_set"
    ledger = Ledger(folder, recipe, sweep_identity(recipe, read_manifest(transfer_set)))
    trials = Trials(recipe, ledger, folder, transfer_set, None, seen.append)
    handed = trials.next()
    trials.ended(min(handed), TrialEnd(metrics={"loss": 1.0}, history=[{"loss": 1.0}], epochs=1))
    over = seen[-1]
    assert isinstance(over, TrialOver)
    assert (over.state, ledger.failures) == ("failed", 1)
    assert "accuracy" in (over.cause or "")


def test_a_student_that_fails_ends_the_trial_and_lets_go_of_its_folder(
    base: Path, tmp_path: Path
) -> None:
    tasks = students_of(base, tmp_path, "[0, 1]", "train.lr=1e30")
    for _ in range(2):
        with pytest.raises(TrainingError, match="epoch 1: the loss must be finite"):
            list(perform_interleaved(tasks, ALONE))
    (end,) = told(tasks)
    assert isinstance(end, TrialEnd)
    assert (end.cause or "").startswith("epoch 1: the loss must be finite")
    assert end.metrics == {}


def test_a_trial_of_which_one_has_heard_enough_ends_within_its_epoch(
    base: Path, tmp_path: Path
) -> None:
    """An epoch may take minutes; a stopped trial must not go on to the end of one."""
    heard: list[type] = []

    def perform(tasks: Any, is_over: Any) -> Any:
        (task,) = tasks
        started, *others = perform_interleaved(tasks, ALONE)
        for event in (started, (task, Step(1, 1, 2, 1.0)), *others):
            heard.append(type(event[1]))
            yield event

    tasks = students_of(base, tmp_path, "[0]")
    block = Block({0: tasks}, perform, lambda: Step in heard)
    assert list(block.reports()) == []
    assert heard == [Started, Step]
