import pytest
import torch

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import build_model, model_problems


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_torchvision_models_have_a_fresh_head_of_k_outputs_in_training_too(name: str):
    model = build_model(name, {}, shape=(3, 32, 32), classes=7, seed=0)
    assert model.training
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_torchvision_models_are_a_function_of_the_seed_and_not_changed_by_the_size_check():
    first, second, other = (
        build_model("squeezenet1_1", {}, shape=(3, 32, 32), classes=3, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    for key, tensor in first.items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, second[key])
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


def test_torchvision_models_start_with_untouched_running_statistics():
    state = build_model("resnet18", {}, shape=(3, 32, 32), classes=3, seed=0).state_dict()
    assert state["bn1.num_batches_tracked"] == 0
    assert (state["bn1.running_mean"] == 0).all()


def test_torchvision_models_refuse_grey_images():
    with pytest.raises(ConfigError, match=r"model 'resnet18': .*3 channels, but got 1; choose"):
        build_model("resnet18", {}, shape=(1, 32, 32), classes=3, seed=0)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "resnet18"])
def test_torchvision_models_with_good_names_have_no_problems(name: str):
    assert model_problems("teacher.model", ModelOptions(name=name)) == []


def test_torchvision_models_refuse_images_that_do_not_fit():
    with pytest.raises(ConfigError) as caught:
        build_model("alexnet", {}, shape=(3, 8, 8), classes=3, seed=0)
    assert str(caught.value).startswith(
        "model 'alexnet': images of 8 x 8 pixels do not go through it ("
    )
    assert str(caught.value).endswith("by model.input = { size = 224 }")
    assert "\n" not in str(caught.value)
