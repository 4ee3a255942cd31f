"""The guide of models: every recipe in it is run, with small weights where others would be."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torchvision
from markdown_it import MarkdownIt
from painted import pictures
from safetensors.torch import save_file

import kd_ray.models
from kd_ray.artefacts import audit_transfer_set
from kd_ray.config import ModelOptions
from kd_ray.models import build_model
from kd_ray.pipeline import open_recipe, run

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("no_own_code")
GUIDE = Path(kd_ray.models.__file__).parent / "README.md"
BLOCKS = [t for t in MarkdownIt().parse(GUIDE.read_text()) if t.type == "fence"]
RECIPES = [block.content for block in BLOCKS if block.info == "toml"]
(CODE,) = (block.content for block in BLOCKS if block.info == "python")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ten classes of pictures, and with all that the guide names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    pictures(tmp_path / "pictures", classes=10, train=2, test=1)
    Path("own_nets.py").write_text(CODE)
    Path("my_layers.py").write_text("")
    options: dict[str, Any] = {"shape": (3, 32, 32), "classes": 7, "seed": 1}
    torch.save(build_model("resnet20", {}, **options).state_dict(), "my_teacher.pth")
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=10,
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained("my-vit")
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    network = torchvision.models.get_model("resnet18", weights=None)
    torch.save(network.state_dict(), cache / weights.url.rpartition("/")[2])
    scope: dict[str, Any] = {}
    exec(compile(CODE, "own_nets.py", "exec"), scope)
    save_file(scope["tiny"]((3, 64, 64), 10).state_dict(), "large.safetensors")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_recipe_of_the_guide_runs(stand_ins: Path, text: str):
    table = tomllib.loads(text.replace("my_nets:", "own_nets:"))
    few = {"epochs": 1, "batch_size": 10}
    teacher = table.setdefault("teacher", {"model": "own_nets:tiny", "train": few})
    if "train" in teacher:
        teacher["train"] |= few
    table.setdefault("student", {"model": "own_nets:tiny"})["baselines"] = []
    table |= {"name": "guide", "train": few}
    table["data"] = {"name": "imagefolder", "root": "pictures", "image_size": 32}
    Path("guide.toml").write_text(tomli_w.dumps(table))
    folder = run(open_recipe("guide.toml"), runs=stand_ins / "runs", local=True).folder
    assert audit_transfer_set(folder / "transfer_set").passed


def test_table_of_the_guide_names_models_that_there_are():
    for name in ("resnet18", "vit_b_16", "timm/resnet18.a1_in1k"):
        assert not kd_ray.models.model_problems("model", ModelOptions(name=name))
