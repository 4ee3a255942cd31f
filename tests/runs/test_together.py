"""Students of a run that are trained as one: each is a task as before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import ALONE, fingerprints, result_at, tasks, tiny_recipe

from kd_ray.errors import ConfigError, TrainingError
from kd_ray.pipeline import Run
from kd_ray.runs import Event, Finished, Inputs, Task, groups_of, perform_all, perform_group
from kd_ray.training.checkpoint import epochs_in, latest_checkpoint, read_meta
from kd_ray.training.progress import Epoch

PLAIN = (
    "teacher.model={ name = 'mlp', hidden = [16] }",
    "student.model={ name = 'mlp', hidden = [8] }",
    "train.seeds=[0, 1, 2]",
    "resources.fuse=8",
)


def students(folder: Path, *overrides: str) -> list[Task]:
    """The students of a run whose transfer set is there."""
    todo = tasks(tiny_recipe(*PLAIN, *overrides), folder)
    list(perform_all([task for task in todo if task.stage.name != "distill"], ALONE))
    return [task for task in todo if task.stage.name == "distill"]


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """Everything of a run; its fingerprints."""
    for _ in Run(tiny_recipe(*PLAIN, *overrides), folder, local=True).events():
        pass
    return fingerprints(folder)


def test_students_that_differ_in_numbers_are_one_group(tmp_path: Path) -> None:
    todo = tasks(tiny_recipe(*PLAIN), tmp_path)
    groups = groups_of(todo)
    assert [len(group) for group in groups] == [1, 1, 6]
    assert [len(group) for group in groups_of(todo, slots=2)] == [1, 1, 3, 3]
    assert sorted(t.title for g in groups for t in g) == sorted(t.title for t in todo)
    few = tasks(tiny_recipe(*PLAIN, "resources.fuse=4"), tmp_path)
    assert [len(group) for group in groups_of(few)] == [1, 1, 3, 3]
    none = tasks(tiny_recipe(*PLAIN, "resources.fuse=1"), tmp_path)
    assert groups_of(none) == [[task] for task in none]


def test_students_trained_as_one_have_the_figures_of_each_alone(tmp_path: Path) -> None:
    run(tmp_path / "fused")
    run(tmp_path / "alone", "resources.fuse=1")
    for file in sorted((tmp_path / "alone").rglob("student/*/*/result.json")):
        alone = result_at(file.parent)
        fused = result_at(tmp_path / "fused" / file.parent.relative_to(tmp_path / "alone"))
        assert fused.metrics == pytest.approx(alone.metrics, rel=1e-4)
        losses = [[line["train_loss"] for line in each.history] for each in (fused, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        path = latest_checkpoint(tmp_path / "fused" / file.parent.relative_to(tmp_path / "alone"))
        assert path is not None
        assert read_meta(path).progress["fused"]


def test_a_group_that_was_left_half_way_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    undisturbed = run(tmp_path / "whole", "train.epochs=4")
    todo = students(tmp_path / "cut", "train.epochs=4")
    for epochs in (2, 5, 9):  # of all students together
        events = perform_group(todo, ALONE)
        for _, event in events:
            epochs -= isinstance(event, Epoch)
            if not epochs:
                break
        events.close()
    places = {task.title: (epochs_in(task.folder) or [0])[-1] for task in todo}
    assert len(set(places.values())) > 1, places
    finished = [task for task, event in perform_group(todo, ALONE) if isinstance(event, Finished)]
    assert len(finished) == len(todo)
    assert fingerprints(tmp_path / "cut") == undisturbed


def test_what_was_begun_alone_goes_on_alone(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", "resources.fuse=1")
    todo = students(tmp_path / "cut", "resources.fuse='auto'")
    events = perform_all(todo[:1], ALONE)
    next(event for _, event in events if isinstance(event, Epoch))
    events.close()
    path = latest_checkpoint(todo[0].folder)
    assert path is not None
    assert read_meta(path).progress.get("fused") is None
    list(perform_group(todo, ALONE))
    found = fingerprints(tmp_path / "cut")
    assert found.keys() == alone.keys()
    assert found[todo[0].title] == alone[todo[0].title]


def test_students_that_draw_random_numbers_are_refused_where_a_number_is_demanded(
    tmp_path: Path,
) -> None:
    dropout = "student.model={ name = 'mlp', hidden = [8], dropout = [0.1, 0.1] }"
    todo = students(tmp_path, dropout)
    with pytest.raises(ConfigError, match=r"fuse: 8 students .* draws random numbers"):
        list(perform_group(todo, ALONE))
    recipe = tiny_recipe(*PLAIN, dropout, "resources.fuse='auto'")
    free = [replace(task, recipe=recipe) for task in todo]
    assert sum(isinstance(e, Finished) for _, e in perform_group(free, ALONE)) == len(todo)


def test_a_student_whose_loss_is_no_longer_finite_fails_alone(tmp_path: Path) -> None:
    todo = students(tmp_path)
    recipe = tiny_recipe(*PLAIN, "train.lr=1e30", "train.optimizer=sgd")
    todo[1] = replace(todo[1], recipe=recipe)
    seen: list[tuple[Task, Event]] = []
    with pytest.raises(TrainingError, match="must be finite"):
        seen += perform_group(todo, ALONE, Inputs())
    finished = [task.folder / "result.json" for task in todo]
    assert [path.is_file() for path in finished] == [True, False, True, True, True, True]
