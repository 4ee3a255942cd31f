import pytest
import torch
from tiny import normal, quantizer_options
from torch import Tensor, nn

from kd_ray.config.quantizer import LayerOptions
from kd_ray.models import build_model
from kd_ray.quant import activity, calibrate_, dead_layers, model_cost, quantize_
from kd_ray.quant.cost import LayerCost

TINY, SMALL = (1, 2, 2), (1, 4, 4)


def mlp() -> nn.Module:
    """4 - 3 - 2."""
    return build_model("mlp", {"hidden": [3]}, shape=TINY, classes=2, seed=0)


def convnet() -> nn.Module:
    """1 - 2 channels on 4 x 4, 2 - 3 on 2 x 2, 3 - 2."""
    return build_model("convnet", {"groups": [[2], [3]]}, shape=SMALL, classes=2, seed=0)


def with_inputs(bits: int, method: str = "dorefa") -> nn.Module:
    """A model whose last layer is given the image itself, quantized."""
    model = build_model("mlp", {"hidden": [4]}, shape=TINY, classes=2, seed=0)
    with torch.no_grad():
        model.linear1.weight.copy_(torch.eye(4))
        model.linear1.bias.zero_()
    return quantize_(model, quantizer_options(method, 32, bits, first_last_float=False), TINY)


# Cost


def test_model_cost_of_a_float_mlp_is_that_computed_by_hand():
    cost = model_cost(mlp(), TINY)
    assert cost.layers == [
        LayerCost("linear1", "Linear", 32, 8, 4 * (12 + 3), 12 * 32 * 8),
        LayerCost("linear2", "Linear", 32, 32, 4 * (6 + 2), 6 * 32 * 32),
    ]
    assert cost.packed_bytes == 60 + 32
    assert cost.bit_operations == 3072 + 6144


def test_model_cost_of_a_w2a1_mlp_is_that_computed_by_hand():
    model = quantize_(mlp(), quantizer_options(first_last_float=False), TINY)
    cost = model_cost(model, TINY)
    # 24 bits and 12 bits of weights, a scale, the bias
    assert cost.layers == [
        LayerCost("linear1", "Linear", 2, 8, 3 + 4 + 12, 12 * 2 * 8),
        LayerCost("linear2", "Linear", 2, 1, 2 + 4 + 8, 6 * 2 * 1),
    ]
    assert cost.packed_bytes == 19 + 14
    assert cost.bit_operations == 192 + 12


FIRST = LayerCost("block1_1.conv", "Conv2d", 32, 8, 4 * 18, 18 * 16 * 32 * 8)
SECOND = LayerCost("block2_1.conv", "Conv2d", 2, 1, 14 + 4, 54 * 4 * 2)
HEAD = LayerCost("head", "Linear", 32, 32, 4 * (6 + 2), 6 * 32 * 32)
NORMS = 4 * 4 * (2 + 3)
"""Bytes of factor, shift, mean and variance of each channel."""


def test_model_cost_of_a_float_convnet_is_that_computed_by_hand():
    cost = model_cost(convnet(), SMALL)
    second = LayerCost("block2_1.conv", "Conv2d", 32, 32, 4 * 54, 54 * 4 * 32 * 32)
    assert cost.layers == [FIRST, second, HEAD]
    assert cost.packed_bytes == 72 + 216 + 32 + NORMS
    assert cost.bit_operations == 73728 + 221184 + 6144


@pytest.mark.parametrize(("method", "learned"), [("dorefa", 0), ("pact", 4), ("lsq", 4)])
def test_model_cost_of_a_w2a1_convnet_is_that_computed_by_hand(method: str, learned: int):
    model = quantize_(convnet(), quantizer_options(method), SMALL)
    cost = model_cost(model, SMALL)
    assert cost.layers == [FIRST, SECOND, HEAD]
    # A step or clip of the inputs is one more number; a step of the weights is their scale.
    assert cost.packed_bytes == 72 + 18 + 32 + NORMS + learned
    assert cost.bit_operations == 73728 + 432 + 6144


def test_model_cost_of_the_exercises_w2a1_convnet_is_that_computed_by_hand():
    cost = model_cost(quantize_(convnet(), quantizer_options("megvii"), SMALL), SMALL)
    first = LayerCost("block1_1.conv", "Conv2d", 2, 8, 5 + 4, 18 * 16 * 2 * 8)
    assert cost.layers[:2] == [first, SECOND]
    assert cost.packed_bytes == 9 + 18 + 32 + NORMS


@pytest.mark.parametrize(("bits", "shift"), [(1, 5.0), (1, -100.0), (8, 5.0)])
def test_model_cost_of_the_exercises_head_is_that_of_float_means(bits: int, shift: float):
    model = quantize_(convnet(), quantizer_options("megvii", 2, bits), SMALL)
    with torch.no_grad():
        model.block1_1.norm.bias.fill_(5.0)  # about half of the units are on
        model.block2_1.norm.bias.fill_(shift)  # some of these, or none
    assert model_cost(model, SMALL).layers == [
        LayerCost("block1_1.conv", "Conv2d", 2, 8, 5 + 4, 18 * 16 * 2 * 8),
        LayerCost("block2_1.conv", "Conv2d", 2, bits, 14 + 4, 54 * 4 * 2 * bits),
        HEAD,
    ]


def test_model_cost_of_layers_with_bits_of_their_own_adds_up():
    layers = {"block2_1.conv": LayerOptions(weight_bits=4, activation_bits=3)}
    model = quantize_(convnet(), quantizer_options(layers=layers), SMALL)
    cost = model_cost(model, SMALL)
    assert cost.layers[1] == LayerCost("block2_1.conv", "Conv2d", 4, 3, 27 + 4, 54 * 4 * 4 * 3)
    assert cost.bit_operations == sum(layer.bit_operations for layer in cost.layers)


def test_model_cost_counts_a_grouped_convolution_and_a_layer_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.depthwise(self.depthwise(x))

    (layer,) = model_cost(Twice(), (4, 5, 5)).layers
    assert layer.bit_operations == 2 * (4 * 9 * 25) * 32 * 8
    assert layer.packed_bytes == 4 * 4 * 9


def test_model_cost_leaves_the_model_as_it_was():
    model = quantize_(convnet(), quantizer_options("lsq"), SMALL)
    model.block1_1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    model_cost(model, SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


# Activity


@pytest.mark.parametrize(
    ("bits", "on", "levels"),
    [(1, 0.5, [0.5, 0.5]), (2, 0.75, [0.25] * 4), (3, 0.75, [0.25, 0, 0.25, 0, 0, 0.25, 0, 0.25])],
)
def test_activity_of_a_hand_made_input_is_that_computed_by_hand(
    bits: int, on: float, levels: list[float]
):
    image = torch.tensor([-1.0, 0.3, 0.7, 1.5]).view(1, *TINY)
    found = activity(with_inputs(bits), torch.cat([image, image.flip(-1)]))
    assert list(found) == ["linear2"]
    assert found["linear2"]["on"] == on
    assert found["linear2"]["levels"] == levels


@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq", "pact"])
@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_activity_has_shares_that_sum_to_one(method: str, bits: int):
    model, batch = (
        quantize_(convnet(), quantizer_options(method, 2, bits), SMALL),
        normal(16, *SMALL),
    )
    calibrate_(model, batch)
    model(batch)  # statistics for the evaluation mode
    found = activity(model, batch)
    behind = ["block1_1.relu", "block2_1.relu"]
    assert list(found) == (behind if method == "megvii" else ["block2_1.conv"])
    for layer in found.values():
        assert len(layer["levels"]) == min(2**bits, 16)
        assert sum(layer["levels"]) == pytest.approx(1, abs=1e-5)
        assert all(0 <= share <= 1 for share in layer["levels"])
        assert 0 <= layer["on"] <= 1
        if bits <= 4:
            assert layer["on"] == pytest.approx(1 - layer["levels"][0], abs=1e-5)


def test_activity_of_signed_levels_counts_from_the_lowest():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
        model[1].bias.zero_()
    assert activity(model, normal(1, *TINY)) == {}
    quantize_(model, quantizer_options("lsq", 32, 2, first_last_float=False), TINY)
    model[3].input_quantizer.step.data.fill_(1.0)
    found = activity(model, torch.tensor([-3.0, -1.0, 0.2, 0.9]).view(1, *TINY))
    assert list(found) == ["3"]
    assert found["3"]["on"] == 0.25
    assert found["3"]["levels"] == [0.25] * 4


def test_activity_leaves_the_model_as_it_was():
    model = quantize_(convnet(), quantizer_options("lsq"), SMALL)
    model.block1_1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    activity(model, normal(4, *SMALL))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


# Dead layers


def test_dead_layers_names_a_layer_that_is_off_and_one_that_is_always_on():
    for value in (0.1, 0.9):
        model = with_inputs(1)
        assert dead_layers(activity(model, torch.full((3, *TINY), value))) == ["linear2"]
    half = torch.tensor([0.1, 0.1, 0.1, 0.9]).view(1, *TINY)
    assert dead_layers(activity(with_inputs(1), half)) == []


def test_dead_layers_names_the_layer_behind_a_shift_that_turns_all_units_off():
    model = quantize_(convnet(), quantizer_options("megvii", 2, 2), SMALL)
    with torch.no_grad():
        model.block1_1.norm.bias.fill_(20.0)
        model.block1_1.norm.weight.fill_(9.0)
        model.block2_1.norm.bias.fill_(-99.0)
    batch = 0.9 * normal(16, *SMALL)
    with torch.no_grad():
        model.block1_1.norm.bias.fill_(3.0)
    model(batch)
    assert dead_layers(activity(model, batch)) == ["block2_1.relu"]


@pytest.mark.parametrize("bits", [5, 8])
def test_dead_layers_does_not_name_a_layer_that_uses_many_low_levels(bits: int):
    # Two levels, half each, which are counted together where there are more than 16.
    image = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, *TINY) / (2**bits - 1)
    found = activity(with_inputs(bits), image)
    assert found["linear2"]["on"] == 0.5
    assert dead_layers(found) == []
