import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError, UnknownNameError
from kd_ray.models import MODELS, build_model, model_problems, parameter_count

OPTIONS: dict[str, dict[str, Any]] = {"mlp": {"hidden": [8], "dropout": [0.1, 0.2]}}


def named(name: str, options: dict[str, Any]) -> ModelOptions:
    return ModelOptions.model_validate({"name": name, **options})


def built(name: str, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> nn.Module:
    return build_model(name, OPTIONS.get(name, {}), shape=shape, classes=4, seed=seed)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (2, 32, 32)])
@pytest.mark.parametrize("name", MODELS)
def test_build_model_gives_logits_for_images_of_any_shape(name: str, shape: tuple[int, int, int]):
    logits = built(name, shape)(torch.randn(2, *shape))
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_build_model_draws_weights_from_the_seed_alone(name: str):
    torch.manual_seed(1)
    first = built(name).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = built(name).state_dict(), built(name, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=0)
    assert any(not torch.equal(other[key], tensor) for key, tensor in first.items())


@pytest.mark.parametrize("name", MODELS)
def test_build_model_gives_weights_that_safetensors_can_keep(name: str, tmp_path: Path):
    model, images = built(name).eval(), torch.randn(2, 3, 8, 8)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    copy = built(name, seed=1).eval()
    copy.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    torch.testing.assert_close(copy(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_build_model_gives_every_relu_a_module_of_its_own(name: str):
    model = built(name)
    calls: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, given, found: calls.append(module))
    model(torch.randn(2, 3, 8, 8))
    assert len(calls) == len(set(calls)) > 0


def test_build_model_with_an_unknown_name_offers_own_and_torchvisions_names():
    with pytest.raises(UnknownNameError, match="unknown model 'resnet19'; did you mean 'resnet"):
        build_model("resnet19", {}, shape=(3, 8, 8), classes=4, seed=0)
    with pytest.raises(UnknownNameError, match=r"did you mean 'mobilenet_v2'.*convnet, "):
        build_model("mobilenetv2", {}, shape=(3, 8, 8), classes=4, seed=0)


def test_build_model_refuses_bad_options_and_names_the_model():
    with pytest.raises(ConfigError, match=r"model 'mlp'.hiden: unknown key; did you mean 'hidden'"):
        build_model("mlp", {"hiden": [3]}, shape=(1, 8, 8), classes=4, seed=0)
    with pytest.raises(ConfigError, match=r"^model 'mlp'.hidden.0: input should be greater"):
        build_model("mlp", {"hidden": [0]}, shape=(1, 8, 8), classes=4, seed=0)


@pytest.mark.parametrize("name", MODELS)
def test_model_problems_are_none_for_good_models(name: str):
    assert model_problems("student.model", named(name, OPTIONS.get(name, {}))) == []


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("mlp", {}, "student.model.hidden: this key is required"),
        ("mlp", {"hidden": [2.5]}, "student.model.hidden.0: "),
        ("mlp", {"hidden": [8], "dropout": [0.5]}, "student.model: dropout must have 2 shares"),
        ("convnet", {"groups": [[16], ["a"]]}, "student.model.groups.1.0: "),
        ("convnet", {"groups": [[16], []]}, "student.model.groups.1: "),
        (
            "resnet20",
            {"width": 0},
            "student.model.width: input should be greater than or equal to 1, but got 0",
        ),
        ("resnet20", {"classes": 3}, "student.model.classes: unknown key; known: width"),
        ("resnet21", {}, "student.model.name: unknown model 'resnet21'; did you mean 'resnet"),
        (
            "resnet18",
            {"width": 3},
            "student.model.width: unknown key; known: block, groups",
        ),
    ],
)
def test_model_problems_name_the_place_and_the_rule(
    name: str, options: dict[str, Any], sentence: str
):
    (problem,) = model_problems("student.model", named(name, options))
    assert problem.startswith(sentence)


def test_model_problems_of_an_enormous_model_need_neither_memory_nor_random_numbers():
    state = torch.get_rng_state()
    (problem,) = model_problems("student.model", named("mlp", {"hidden": [10**6, 10**6]}))
    assert problem.startswith("student.model: its 1,000,004,000,002 weights need 4,000 GB")
    with pytest.raises(ConfigError, match=r"model 'mlp': its 100,175,000,002 weights need 401 GB"):
        build_model("mlp", {"hidden": [10**6]}, shape=(1, 316, 317), classes=2, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_own_models_do_not_import_torchvision():
    program = (
        "import sys\n"
        "from kd_ray.config import ModelOptions\n"
        "from kd_ray.models import build_model, model_problems\n"
        "assert not model_problems('model', ModelOptions(name='convnet'))\n"
        "build_model('resnet20', {}, shape=(3, 8, 8), classes=2, seed=0)\n"
        "print('torchvision' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "False\n"


def test_parameter_count_leaves_frozen_weights_and_buffers_out():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert parameter_count(model) == 3 * 2 + 2 + 2 * 2
    model[0].weight.requires_grad_(False)
    assert parameter_count(model) == 2 + 2 * 2
