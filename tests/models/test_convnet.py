import pytest
import torch
from torch import nn

from kd_ray.errors import ConfigError
from kd_ray.models import build_model, parameter_count
from kd_ray.models.convnet import convnet


def test_convnet_is_the_exercises_network():
    model = convnet(shape=(3, 40, 40), classes=10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [16, 32, 32, 64, 64, 128, 128]
    pairs = [(3, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    weights = sum(9 * inputs * outputs for inputs, outputs in pairs)
    norms = 2 * sum(outputs for _, outputs in pairs)
    assert parameter_count(model) == weights + norms + 128 * 10 + 10
    sizes: list[int] = []
    model.pool.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-1]))
    model(torch.randn(2, 3, 40, 40))
    assert sizes == [5]  # three poolings, none after the last group


def test_convnet_keeps_the_order_of_pooling_and_relu_irrelevant():
    block = convnet(shape=(3, 8, 8), classes=2, groups=[[4], [4]]).block1_1.eval()
    images = torch.randn(2, 3, 8, 8)
    swapped = block.pool(block.relu(block.norm(block.conv(images))))
    torch.testing.assert_close(block(images), swapped)


@pytest.mark.parametrize("sides", [(4, 4), (7, 32), (32, 7)])
def test_convnet_refuses_images_that_it_would_pool_away(sides: tuple[int, int]):
    with pytest.raises(ConfigError) as caught:
        build_model("convnet", {}, shape=(3, *sides), classes=2, seed=0)
    assert "4 groups need images of at least 8 x 8 pixels" in str(caught.value)
    assert f"but got {sides[0]} x {sides[1]}" in str(caught.value)


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_convnet_takes_the_least_image_that_it_promises(groups: int):
    side = 2 ** (groups - 1)
    model = convnet(shape=(1, side, side), classes=2, groups=[[4]] * groups)
    assert model(torch.randn(2, 1, side, side)).shape == (2, 2)


@pytest.mark.parametrize(
    ("groups", "rule"),
    [
        ([], "groups: .* should have at least 1 item, but got"),
        ([[]], r"groups\.0: .* should have at least 1 item"),
        ([[4], []], r"groups\.1: .* should have at least 1 item"),
        ([[4, 0]], r"groups\.0\.1: input should be greater than or equal to 1, but got 0"),
    ],
)
def test_convnet_refuses_groups_without_channels(groups: list[list[int]], rule: str):
    with pytest.raises(ConfigError, match=rule):
        build_model("convnet", {"groups": groups}, shape=(3, 32, 32), classes=2, seed=0)
