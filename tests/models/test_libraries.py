"""torchvision's own weights, timm and transformers, tried with small random weights, no network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tiny import normal
from torch import nn

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import NewModel, build_model, columns_of, model_problems, new_model
from kd_ray.models.prepared import network_in

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
SHAPE = (3, 32, 32)
IMAGES = normal(2, *SHAPE)
VIT = {
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def made(name: str, classes: int = 3, **keys: Any) -> NewModel:
    columns = columns_of(keys.pop("columns", None), [str(n) for n in range(classes)])
    return new_model(
        ModelOptions.model_validate({"name": name, **keys}),
        shape=keys.pop("shape", SHAPE),
        classes=classes,
        seed=0,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        columns=columns,
    )


def answer(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network.eval()(IMAGES)
    return logits


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A folder as transformers saves one, of five classes."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VIT, num_labels=5)
    folder = tmp_path / "vit"
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    return folder


def processor(folder: Path, **more: Any) -> None:
    table = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(table | more))


def test_folder_of_transformers_is_the_very_classifier_that_was_saved(vit: Path):
    found = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    with torch.no_grad():
        assert torch.equal(answer(found.network), theirs(IMAGES).logits)
    assert found.network.state_dict().keys() == theirs.state_dict().keys()
    assert found.table["name"] == "hf/vit"


def test_its_weights_may_come_from_another_file(vit: Path):
    default = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    torch.save(default.network.state_dict(), vit / "net.pth")
    found = made(f"hf/{vit}", classes=5, weights=str(vit / "net.pth"))
    assert torch.equal(answer(found.network), answer(default.network))


def test_model_of_a_folder_is_built_again_where_the_folder_is_gone(vit: Path):
    found = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    options = {key: value for key, value in found.table.items() if key != "name"}
    for file in vit.iterdir():
        file.unlink()
    vit.rmdir()
    again = build_model(found.table["name"], options, shape=SHAPE, classes=5, seed=9)
    again.load_state_dict(found.network.state_dict())
    assert torch.equal(answer(again), answer(found.network))


def test_image_processor_of_the_folder_says_what_the_model_is_fed(vit: Path):
    processor(vit)
    found = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    assert found.table["input"] == {
        "size": 32,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bicubic",
    }
    processor(vit, do_normalize=False)
    assert "mean" not in made(f"hf/{vit}", classes=5, weights="DEFAULT").table["input"]


def test_columns_of_a_folder_are_those_outputs_of_it(vit: Path):
    all_of_it = answer(made(f"hf/{vit}", classes=5, weights="DEFAULT").network)
    some = made(f"hf/{vit}", weights="DEFAULT", columns=[4, 0, 2])
    assert torch.equal(answer(some.network), all_of_it[:, [4, 0, 2]])


def test_a_folder_that_was_saved_in_half_precision_is_trained_in_float32(vit: Path):
    theirs = transformers.AutoModelForImageClassification.from_pretrained(vit).half()
    theirs.save_pretrained(vit)
    found = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    assert {weights.dtype for weights in found.network.parameters()} == {torch.float32}


def test_a_head_that_the_files_lack_is_told_rather_than_drawn(tmp_path: Path):
    transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"it lacks classifier\.weight, classifier\.bias"):
        made(f"hf/{tmp_path / 'base'}", weights="DEFAULT")
    assert made(f"hf/{tmp_path / 'base'}", weights="DEFAULT", head="new").parents


def test_code_in_a_folder_of_transformers_never_runs(vit: Path):
    mark = vit / "ran"
    (vit / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Net: pass\n")
    config = json.loads((vit / "config.json").read_text())
    names = {"AutoConfig": "evil.Net", "AutoModelForImageClassification": "evil.Net"}
    (vit / "config.json").write_text(json.dumps(config | {"auto_map": names}))
    found = made(f"hf/{vit}", classes=5, weights="DEFAULT")
    options = {key: value for key, value in found.table.items() if key != "name"}
    sent = {**options["config"], "auto_map": names, "_attn_implementation": "evil/kernel"}
    build_model("hf/vit", {**options, "config": sent}, shape=SHAPE, classes=5, seed=0)
    (vit / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (problem,) = model_problems("teacher.model", ModelOptions(name=f"hf/{vit}"))
    assert "transformers cannot give" in problem
    assert not mark.exists()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "no image classifier of type unset"),
        ({"model_type": "gpt2"}, "no image classifier of type 'gpt2'"),
        ([1], "config must be a table"),
    ],
)
def test_a_configuration_of_something_else_is_refused(config: Any, told: str):
    with pytest.raises(ConfigError, match=told):
        build_model("hf/x", {"config": config}, shape=SHAPE, classes=3, seed=0)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("hf/nobody/nothing", marks=pytest.mark.slow),  # which ask several times
        pytest.param("timm/resnet10t.c3_in1k", marks=pytest.mark.slow),
        "resnet18",
    ],
)
def test_weights_that_cannot_be_had_are_told_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        made(name, weights="DEFAULT")
    assert "download" in str(caught.value)
    assert "\n" not in str(caught.value)


def cached(name: str, folder: Path) -> nn.Module:
    """A network of random weights, in the place of those that torchvision would download."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None)
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    file = folder / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    torch.save(network.state_dict(), file)
    return network.eval()


def test_default_of_torchvision_has_its_weights_size_and_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = cached("squeezenet1_1", tmp_path)
    found = made("squeezenet1_1", weights="DEFAULT", columns=[999, 0, 5])
    assert found.table["input"]["size"] == 224
    assert found.table["input"]["mean"] == [0.485, 0.456, 0.406]
    assert (found.table["weights"], found.table["outputs"]) == ("DEFAULT", 1000)
    large = normal(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(network_in(found.network).eval()(large), theirs(large))
    assert answer(found.network).shape == (2, 3)
    assert len(found.parents["weights"]) == 64


def test_default_of_torchvision_never_runs_code_that_lies_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "ran"), "w")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached("squeezenet1_1", tmp_path)
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    torch.save({"features": Evil()}, file)
    with pytest.raises(ConfigError, match="squeezenet1_1"):
        made("squeezenet1_1", weights="DEFAULT")
    assert not (tmp_path / "ran").exists()


def test_timm_takes_its_options_and_a_file_of_weights(tmp_path: Path):
    theirs = timm.create_model("resnet10t", num_classes=3)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "net.pth")
    found = made("timm/resnet10t", weights=str(tmp_path / "net.pth"))
    assert torch.equal(answer(found.network), answer(theirs))
    assert made("timm/resnet10t", drop_rate=0.5).table["drop_rate"] == 0.5


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"name": "timm/resnet10x"}, "timm has no model 'resnet10x'; did you mean "),
        ({"name": "timm/resnet10t", "num_classes": 3}, r"num_classes: is set by kd-ray"),
        ({"name": "timm/resnet10t", "checkpoint_path": "x.pth"}, "checkpoint_path: is set by"),
        ({"name": "timm/resnet10t", "config": {}, "pretrained": True}, "pretrained: is set by"),
    ],
)
def test_what_is_wrong_with_a_model_of_timm_is_a_problem_of_the_recipe(
    table: dict[str, Any], told: str
):
    (problem,) = model_problems("teacher.model", ModelOptions.model_validate(table))
    assert told in problem
    options = {key: value for key, value in table.items() if key != "name"}
    with pytest.raises(ConfigError, match=told):
        build_model(table["name"], options, shape=SHAPE, classes=3, seed=0)


def test_library_that_refuses_an_option_is_quoted():
    with pytest.raises(ConfigError, match=r"timm/resnet10t': it cannot be made \(.*widht"):
        made("timm/resnet10t", widht=3)


def test_grey_images_go_through_three_channels_where_three_means_are_given():
    model = ModelOptions.model_validate(
        {"name": "resnet18", "input": {"mean": [0.5] * 3, "std": [0.2] * 3}}
    )
    found = new_model(model, shape=(1, 32, 32), classes=3, seed=0, mean=[0.3], std=[0.1])
    assert found.network(normal(2, 1, 32, 32)).shape == (2, 3)
