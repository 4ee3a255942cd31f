"""Eight architectures, each as teacher and as student, through every stage unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from painted import pictures
from safetensors.torch import save_file
from tiny import result_at

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint
from kd_ray.config import ModelOptions, Recipe
from kd_ray.models import new_model
from kd_ray.own_code import allow
from kd_ray.pipeline import catalogue_problems, run

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("no_own_code")
NETS = """
import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, shape, classes, width: int = 16, patch: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.place = nn.Parameter(torch.zeros(1, (shape[1] // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.place
        return self.head(self.encoder(tokens).mean(1))


class Tied(nn.Module):
    # Two names for one layer's weights, an integer that counts, a constant, a frozen layer, and a
    # layer that nothing asks.
    def __init__(self, classes):
        super().__init__()
        self.stem, self.unasked = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(2, 2)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, classes)
        self.stem.requires_grad_(False)
        self.register_buffer("ramp", torch.linspace(0, 1, 8), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        if self.training:
            self.seen += len(images)
        pooled = self.norm(self.stem(images)).view(len(images), 8, -1).mean(2)
        return self.head(self.two(self.one(pooled).relu()).relu() * self.ramp)
"""
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViT": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 16,
    },
    "ResNet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
}
"""Configurations, which are saved with random weights."""

MODELS: dict[str, dict[str, Any]] = {
    "torchvision, batch norm": {"name": "shufflenet_v2_x0_5"},
    "torchvision, no norm": {"name": "squeezenet1_1", "weights": "net.pth", "input": {"size": 40}},
    "timm, batch norm": {"name": "timm/test_resnet"},
    "timm, attention": {"name": "timm/test_vit", "img_size": 32, "weights": "net.safetensors"},
    "transformers, attention": {"name": "hf/ViT", "weights": "DEFAULT"},
    "transformers, batch norm": {"name": "hf/ResNet", "weights": "DEFAULT"},
    "own, attention": {"name": "own_nets:Attention", "width": 8},
    "own, with everything odd": {"name": "own_nets:Tied", "weights": "net.pth"},
}


LARGE = {"torchvision, batch norm"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in LARGE else ()) for kind in MODELS]
)
def test_architecture_goes_through_every_stage_as_teacher_and_as_student(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures", classes=3, train=8, test=4)
    Path("own_nets.py").write_text(NETS)
    allow(["own_nets:Tied"], tmp_path)
    torch.manual_seed(0)
    model = MODELS[kind]
    if (config := TRANSFORMERS.get(model["name"].removeprefix("hf/"))) is not None:
        made = getattr(transformers, f"{model['name'][3:]}Config")(**config, num_labels=3)
        folder = tmp_path / model["name"]
        transformers.AutoModelForImageClassification.from_config(made).save_pretrained(folder)
        model = model | {"name": f"hf/{folder}"}
    if (file := model.get("weights", "DEFAULT")) != "DEFAULT":
        fresh = {key: value for key, value in model.items() if key not in ("weights", "input")}
        state = new_model(
            ModelOptions.model_validate(fresh),
            shape=(3, 32, 32),
            classes=3,
            seed=1,
            mean=[0.0] * 3,
            std=[1.0] * 3,
        ).network.state_dict()
        whole = {name: tensor.clone() for name, tensor in state.items()}
        save_file(whole, file) if "safetensors" in file else torch.save({"model": state}, file)
    few = {"epochs": 1, "batch_size": 8}
    teacher = {"model": model} | ({} if "weights" in model else {"train": few})
    student = {key: value for key, value in model.items() if key != "weights"}
    recipe = Recipe.model_validate(
        {
            "name": "one",
            "data": {"name": "imagefolder", "root": "pictures", "image_size": 32},
            "teacher": teacher,
            "transfer_set": {"views": 2, "augment": {"flip": True}},
            "student": {"model": student, "baselines": []},
            "train": few,
            "resources": {"cpus_per_worker": 1},
            "code": str(tmp_path),
        }
    )
    assert not catalogue_problems(recipe)
    home = run(recipe, runs=tmp_path, local=True).folder
    assert audit_transfer_set(home / "transfer_set", sample=None).passed
    for part in ("teacher/member-00", "student/distilled/seed-0"):
        assert evaluate_checkpoint(home / part).items() <= result_at(home / part).metrics.items()
    assert len(result_at(home / "student/distilled/seed-0").history) == 1
