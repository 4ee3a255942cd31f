"""Own nets and those of libraries in the other places of a recipe: quantized, searched, special."""

from pathlib import Path
from typing import Any

import pytest
import torch
from painted import pictures
from safetensors.torch import save_file
from tiny import fingerprints, result_at

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint
from kd_ray.config import Recipe
from kd_ray.config.read import parse_recipe
from kd_ray.errors import ConfigError
from kd_ray.own_code import allow, imported
from kd_ray.pipeline import allowed, catalogue_problems, run
from kd_ray.runs import result_model
from kd_ray.training.checkpoint import read_meta
from tuning.driver import sweep

pytestmark = pytest.mark.usefixtures("no_own_code")
NETS = """
from torch import nn

def conv(shape, classes, width: int = 8):
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, stride=4), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))

def flat(shape, classes):
    return nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2] // 64, classes))
"""
INPUT = {"size": 40, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe with a finished own teacher of 40 pixels, on four classes of small pictures."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures", classes=4, train=8, test=2)
    Path("own_nets.py").write_text(NETS)
    allow(["own_nets:conv"], tmp_path)
    torch.manual_seed(0)
    save_file(imported("own_nets:conv")((3, 40, 40), 6).state_dict(), "net.safetensors")
    model = {"name": "own_nets:conv", "weights": "net.safetensors", "input": INPUT}
    few = {"epochs": 1, "batch_size": 8}
    return {
        "name": "one",
        "data": {"name": "imagefolder", "root": "pictures", "image_size": 32, "validation": 8},
        "teacher": {"model": model, "columns": [5, 0, 1, 2]},
        "student": {"model": {"name": "own_nets:flat"}, "baselines": []},
        "train": few,
        "resources": {"cpus_per_worker": 1},
        "code": str(tmp_path),
    }


def read(table: dict[str, Any]) -> Recipe:
    return parse_recipe(table, "one", [allowed, catalogue_problems])


@pytest.mark.parametrize(
    "model",
    [
        {"name": "own_nets:conv"},
        {"name": "own_nets:conv", "input": INPUT},
        pytest.param({"name": "timm/test_vit", "img_size": 32}, marks=pytest.mark.slow),
    ],
)
def test_quantizers_go_on_layers_wherever_they_are(
    recipe: dict[str, Any], model: dict[str, Any], tmp_path: Path
):
    quantizer = {"method": "lsq", "weight_bits": 4, "activation_bits": 4}
    recipe["student"] |= {"model": model, "quantizer": quantizer}
    home = run(read(recipe), runs=tmp_path, local=True).folder / "student/distilled/seed-0"
    record = result_at(home)
    assert {layer["weight_bits"] for layer in record.layers} == {4, 32}
    assert evaluate_checkpoint(home).items() <= record.metrics.items()


def test_specialists_start_from_a_generalist_that_came_with_weights_input_and_columns(
    recipe: dict[str, Any], tmp_path: Path
):
    few = {"epochs": 1, "batch_size": 8}
    recipe["specialists"] = {"count": 2, "classes_each": 2, "train": few}
    home = run(read(recipe), runs=tmp_path, local=True).folder
    assert audit_transfer_set(home / "transfer_set").passed
    special = home / "specialists" / "member-00"
    assert read_meta(result_model(special)).model["columns"] == [5, 0, 1, 2]
    assert evaluate_checkpoint(special).items() <= result_at(special).metrics.items()


def test_sweep_chooses_among_models_by_their_names(recipe: dict[str, Any], tmp_path: Path):
    names = ["own_nets:flat", "own_nets:conv", "resnet20"]
    space = {"student.model.name": {"choice": names}}
    recipe["sweep"] = {"trials": 3, "sampler": "grid", "space": space}
    found = sweep(read(recipe), runs=tmp_path, local=True)
    assert {trial.settings["student.model.name"] for trial in found.trials} == set(names)
    assert {trial.state for trial in found.trials} == {"finished"}


@pytest.mark.ray
@pytest.mark.slow
def test_own_nets_train_on_workers_of_ray_to_the_same_bits(recipe: dict[str, Any], tmp_path: Path):
    found = [
        fingerprints(run(read(recipe), runs=tmp_path / name, local=name == "here").folder)
        for name in ("here", "ray")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"model": {"name": "own_nets:conv", "weights": "gone.safetensors"}}, "gone.safetensors"),
        ({"model": {"name": "own_nets:conv", "weights": "net.safetensors"}}, "do not fit"),
        ({"model": {"name": "own_nets:bare"}, "quantizer": {"weight_bits": 2}}, "bare"),
    ],
)
def test_a_student_that_cannot_be_made_is_refused_before_its_teacher_is_trained(
    recipe: dict[str, Any], student: dict[str, Any], told: str, tmp_path: Path
):
    Path("own_nets.py").write_text(NETS + "def bare(classes): return nn.Linear(3, classes)\n")
    recipe["teacher"] = {"model": {"name": "mlp", "hidden": [4]}, "train": recipe["train"]}
    recipe["student"] |= student
    with pytest.raises(ConfigError, match=told):
        run(read(recipe), runs=tmp_path, local=True)
    assert not list((tmp_path / "one").rglob("epoch-*"))
