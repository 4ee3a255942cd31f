"""Teachers that need no training, and ensembles of different models, through every stage."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import perform, result_at, tasks, tiny_file, tiny_recipe

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint
from kd_ray.config import ModelOptions
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.models import new_model
from kd_ray.pipeline import open_recipe, run
from kd_ray.result import RESULT
from kd_ray.runs import Finished, result_model
from kd_ray.training.checkpoint import read_meta
from kd_ray.transfer_set import read_manifest

INPUT = "{ size = 12, mean = [0.2], std = [0.5], interpolation = 'bicubic' }"


def weights(file: Path, classes: int = 10, seed: int = 7, size: int = 8) -> str:
    """A file of random weights of a small network; its name."""
    model = ModelOptions.model_validate({"name": "mlp", "hidden": [16]})
    made = new_model(
        model, shape=(1, size, size), classes=classes, seed=seed, mean=[0.0], std=[1.0]
    )
    torch.save({"state_dict": made.network.state_dict()}, file)
    return str(file)


def finished(file: str, *more: str) -> list[str]:
    """Overrides of the tiny recipe: its teacher has these weights."""
    return [
        f"teacher={{ model = {{ name = 'mlp', hidden = [16], weights = '{file}' }} }}",
        "student.baselines=[]",
        *more,
    ]


def test_teacher_with_weights_and_no_train_table_is_evaluated_and_labels(tmp_path: Path):
    recipe = tiny_recipe(*finished(weights(tmp_path / "net.pth")))
    assert recipe.teacher is not None
    assert recipe.teacher.train.epochs == 0
    summary = run(recipe, runs=tmp_path, local=True)
    record = result_at(summary.folder / "teacher" / "member-00")
    assert (record.epochs, record.history, record.checkpoint) == (0, [], "epoch-0000")
    assert record.metrics == evaluate_checkpoint(summary.folder / "teacher" / "member-00")
    assert audit_transfer_set(summary.folder / "transfer_set").passed
    again = run(recipe, runs=tmp_path, local=True)
    assert [row.metrics for row in again.rows] == [row.metrics for row in summary.rows]


def test_teacher_that_is_trained_starts_from_its_weights(tmp_path: Path):
    file = weights(tmp_path / "net.pth")
    recipe = tiny_recipe(*finished(file, "teacher.train={ epochs = 1, lr = 1e-12 }"))
    (task, *_) = tasks(recipe, tmp_path / "run")
    perform([task])
    stored = load_file(result_model(task.folder) / "model.safetensors")
    given = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.allclose(stored[name], given[name], atol=1e-9) for name in given)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["teacher.train.epochs=0"], r"train\.epochs = 0 needs a finished teacher.*no weights"),
        (
            ["teacher={ model = { name = 'mlp', hidden = [4], weights = 'x.pt', head = 'new' } }"],
            "has a new head",
        ),
    ],
)
def test_teacher_that_is_not_finished_needs_epochs(overrides: list[str], told: str):
    with pytest.raises(ConfigError, match=told):
        tiny_recipe(*overrides)


def test_finished_teacher_goes_on_wherever_it_was_killed(tmp_path: Path):
    recipe = tiny_recipe(*finished(weights(tmp_path / "net.pth")))
    (task, *_) = tasks(recipe, tmp_path / "run")
    (before,) = (event.result for _, event in perform([task]) if isinstance(event, Finished))
    (task.folder / RESULT).unlink()  # as if killed between checkpoint and record
    (after,) = (event.result for _, event in perform([task]) if isinstance(event, Finished))
    assert after.weights_sha256 == before.weights_sha256
    shutil.rmtree(task.folder / "epoch-0000")
    (task.folder / RESULT).unlink()
    perform([task])
    assert result_at(task.folder).weights_sha256 == before.weights_sha256


def test_moved_weights_are_the_same_teacher_and_changed_ones_are_refused(tmp_path: Path):
    file = weights(tmp_path / "net.pth")
    home = run(tiny_recipe(*finished(file)), runs=tmp_path, local=True).folder
    made = result_at(home / "teacher" / "member-00")
    moved = shutil.move(file, tmp_path / "moved.pth")
    run(tiny_recipe(*finished(str(moved))), runs=tmp_path, local=True)
    assert result_at(home / "teacher" / "member-00") == made
    weights(tmp_path / "moved.pth", seed=8)
    with pytest.raises(CheckpointError, match="made by another recipe: weights"):
        run(tiny_recipe(*finished(str(moved))), runs=tmp_path, local=True)


def test_run_is_evaluated_audited_and_gone_on_with_where_its_weights_are_gone(tmp_path: Path):
    file = weights(tmp_path / "net.pth")
    recipe = tiny_recipe(*finished(file))
    home = run(recipe, runs=tmp_path, local=True).folder
    Path(file).unlink()
    assert audit_transfer_set(home / "transfer_set").passed
    record = result_at(home / "teacher" / "member-00")
    assert evaluate_checkpoint(home / "teacher" / "member-00") == record.metrics
    (home / "student" / "distilled" / "seed-0" / RESULT).unlink()
    run(recipe, runs=tmp_path, local=True)


def test_no_such_weights_is_one_sentence_and_nothing_half_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        run(tiny_recipe(*finished(str(tmp_path / "no.pth"))), runs=tmp_path, local=True)
    assert not list((tmp_path / "tiny").rglob("epoch-*"))


def test_members_of_different_models_see_the_same_view_each_in_its_own_way(tmp_path: Path):
    own = weights(tmp_path / "large.pth", size=12)
    models: list[str] = [
        "{ name = 'mlp', hidden = [4] }",
        f"{{ name = 'mlp', hidden = [16], weights = '{own}', input = {INPUT} }}",
        "{ name = 'convnet', groups = [[4]] }",
    ]
    recipe = tiny_recipe(
        f"teacher={{ models = [{', '.join(models)}], members = 3, train = {{ epochs = 1 }} }}",
        "transfer_set.views=2",
        "transfer_set.augment={ shift = 1 }",
        "student.baselines=[]",
        f"student.model={{ name = 'mlp', hidden = [8], input = {INPUT} }}",
    )
    home = run(recipe, runs=tmp_path, local=True).folder
    assert audit_transfer_set(home / "transfer_set", sample=None).passed
    told: list[dict[str, Any]] = [
        t.model for t in read_manifest(home / "transfer_set").plan.teachers
    ]
    assert [model["name"] for model in told] == ["mlp", "mlp", "convnet"]
    assert told[1]["input"]["size"] == 12
    assert told[1]["weights"] == "file"
    assert "input" not in told[0]
    student = read_meta(result_model(home / "student" / "distilled" / "seed-0"))
    assert student.model["input"] == told[1]["input"]
    parents = read_meta(result_model(home / "teacher" / "member-01")).parents
    assert set(parents) == {"dataset", "weights"}


def test_columns_are_recorded_and_determine_the_teacher(tmp_path: Path):
    file = weights(tmp_path / "net.pth", classes=12)
    columns = "teacher.columns=[11, 0, 1, 2, 3, 4, 5, 6, 7, 8]"
    home = run(tiny_recipe(*finished(file, columns)), runs=tmp_path, local=True).folder
    (teacher,) = read_manifest(home / "transfer_set").plan.teachers
    assert teacher.model["columns"] == [11, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert audit_transfer_set(home / "transfer_set").passed
    other = "teacher.columns=[10, 0, 1, 2, 3, 4, 5, 6, 7, 8]"
    with pytest.raises(CheckpointError, match="columns"):
        run(tiny_recipe(*finished(file, other)), runs=tmp_path, local=True)


def test_names_of_columns_determine_the_teacher_by_what_the_file_says(tmp_path: Path):
    file = weights(tmp_path / "net.pth", classes=12)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["a", "b", *map(str, range(10))]))
    overrides = finished(file, f"teacher.columns='{names}'")
    home = run(tiny_recipe(*overrides), runs=tmp_path, local=True).folder
    assert read_meta(result_model(home / "teacher" / "member-00")).model["columns"][0] == 2
    names.write_text("\n".join([*map(str, range(10)), "a", "b"]))
    with pytest.raises(CheckpointError, match="columns"):
        run(tiny_recipe(*overrides), runs=tmp_path, local=True)


def test_paths_of_a_recipe_may_be_relative_to_where_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights(tmp_path / "net.pth")
    monkeypatch.chdir(tmp_path)
    recipe = open_recipe(tiny_file(tmp_path, *finished("net.pth")))
    assert run(recipe, runs="runs", stages=["teach"], local=True).folder.is_dir()
