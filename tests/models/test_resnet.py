import pytest
import torch
from torch import nn

from kd_ray.errors import ConfigError
from kd_ray.models import MODELS, build_model, parameter_count
from kd_ray.models.convnet import ResidualBlock, resnet


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [("resnet20", 20, 269_722), ("resnet32", 32, 464_154), ("resnet56", 56, 853_018)],
)
def test_resnet_has_the_papers_layers_and_parameters(name: str, layers: int, parameters: int):
    model = MODELS[name](shape=(3, 32, 32), classes=10)
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers
    assert parameter_count(model) == parameters


def test_resnet_width_scales_the_channels_of_all_stages():
    model = resnet(3, shape=(1, 8, 8), classes=3, width=5)
    channels = {module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert channels == {5, 10, 20}
    assert model.head.in_features == 20


def test_resnet_refuses_a_width_below_one():
    with pytest.raises(
        ConfigError, match="width: input should be greater than or equal to 1, but got 0"
    ):
        build_model("resnet20", {"width": 0}, shape=(3, 32, 32), classes=10, seed=0)


def test_residual_block_with_a_silent_branch_is_its_shortcut():
    images = torch.rand(2, 4, 6, 6)
    same, halving = ResidualBlock(4, 4), ResidualBlock(4, 8)
    for block in (same, halving):
        nn.init.zeros_(block.norm2.weight)
    torch.testing.assert_close(same(images), images)
    found = halving(images)
    torch.testing.assert_close(found[:, :4], images[:, :, ::2, ::2])
    assert (found[:, 4:] == 0).all()


def test_resnet_takes_odd_and_tiny_images():
    model = resnet(3, shape=(3, 1, 7), classes=3)
    assert model(torch.randn(2, 3, 1, 7)).shape == (2, 3)
