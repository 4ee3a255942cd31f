"""A notice that a machine will be taken away, in the middle of an epoch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ALONE, perform, tasks, tiny_recipe, weights_sha256, without_time

from kd_ray.result import read_result
from kd_ray.runs import Finished, Task, perform_all
from kd_ray.training import epoch
from kd_ray.training.checkpoint import UNDER_WAY, is_whole, read_meta
from kd_ray.training.progress import Epoch, Notice
from kd_ray.training.workers import Worker

NO_DROPOUT = (
    "teacher.model={ name = 'mlp', hidden = [16] }",
    "student.model={ name = 'mlp', hidden = [8] }",
    "train.epochs=3",
    "train.batch_size=16",
    "train.lr=0.02",
)


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "NOTICE_EVERY", 1)


def told_at(*moments: int) -> Worker:
    """A worker that is given notice when it asks for the n-th time, for these n."""
    asked = iter(range(1, 10_000))
    return replace(ALONE, noticed=lambda: next(asked) in moments)


def until_notice(task: Task, worker: Worker) -> Iterator[Any]:
    """Performs a task up to the first notice, and is then no more, as the machine is."""
    generator = perform_all([task], worker)
    for _, event in generator:
        yield event
        if isinstance(event, Notice):
            break
    generator.close()


def student_of(folder: Path) -> Task:
    todo = tasks(tiny_recipe(*NO_DROPOUT), folder)
    perform(todo[:2])
    return todo[-1]


@pytest.mark.parametrize("moment", [1, 4, 17, 20])
def test_a_training_taken_away_in_an_epoch_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, moment: int
):
    whole, torn = student_of(tmp_path / "whole"), student_of(tmp_path / "torn")
    perform([whole])
    notice = list(until_notice(torn, told_at(moment)))[-1]
    assert isinstance(notice, Notice)
    left = read_meta(torn.folder / UNDER_WAY)
    assert left.part is not None
    assert (left.epoch, left.part.steps) == (notice.epoch - 1, notice.done)
    torch.manual_seed(torch.seed())  # a new process would not have the old random state
    perform([torn])
    assert weights_sha256(torn.folder) == weights_sha256(whole.folder)
    wanted, found = read_result(whole.folder), read_result(torn.folder)
    assert wanted is not None
    assert found is not None
    assert without_time(found.history) == without_time(wanted.history)
    assert not is_whole(torn.folder / UNDER_WAY)


def test_a_training_that_outlives_its_notice_is_as_if_there_had_been_none(tmp_path: Path):
    whole, told = student_of(tmp_path / "whole"), student_of(tmp_path / "told")
    perform([whole])
    events = [event for _, event in perform([told], told_at(2, 5))]
    assert sum(isinstance(event, Notice) for event in events) == 2
    assert isinstance(events[-1], Finished)
    assert weights_sha256(told.folder) == weights_sha256(whole.folder)


def test_nobody_asks_for_a_notice_at_the_end_of_an_epoch(tmp_path: Path):
    task = student_of(tmp_path)
    events = [event for _, event in perform([task], replace(ALONE, noticed=lambda: True))]
    notices = [event for event in events if isinstance(event, Notice)]
    epochs = sum(isinstance(event, Epoch) for event in events)
    assert len(notices) == epochs * (notices[0].steps - 1)
    assert all(notice.done < notice.steps for notice in notices)
