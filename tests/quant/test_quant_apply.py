from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny import quantizer_options
from torch import Tensor, nn

from kd_ray.config import QuantizerOptions
from kd_ray.config.quantizer import LayerOptions
from kd_ray.errors import ConfigError
from kd_ray.models import build_model
from kd_ray.quant import calibrate_, is_quantized, quantize_
from kd_ray.quant.apply import LAYERS, LayerBits, activation_quantizers, layer_bits
from kd_ray.quant.dorefa import dorefa_weights
from kd_ray.quant.quantizers import QuantizedConv2d, QuantizedLinear, QuantizedReLU, Quantizer
from kd_ray.quant.trace import LayerCalls, trace_layers

SHAPE = (3, 8, 8)
SMALL = {"groups": [[4], [4, 6]]}
CONVNET = ["block1_1.conv", "block2_1.conv", "block2_2.conv", "head"]
FLOAT = LayerBits(32, 32, 32)
METHODS = ["dorefa", "megvii", "lsq", "pact"]


def convnet(seed: int = 0) -> nn.Module:
    return build_model("convnet", SMALL, shape=SHAPE, classes=3, seed=seed)


def mlp(seed: int = 0, **more: Any) -> nn.Module:
    return build_model("mlp", {"hidden": [6, 5], **more}, shape=SHAPE, classes=3, seed=seed)


def images(rows: int = 6, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in state.items()
    )


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def calls(model: nn.Module) -> list[LayerCalls]:
    return trace_layers(model, SHAPE, LAYERS)


# Bits of layers


def test_layer_bits_leave_the_first_and_the_last_layer_float():
    low = LayerBits(2, 1, 4)
    found = layer_bits(calls(convnet()), quantizer_options(gradient_bits=4))
    assert found == dict(zip(CONVNET, [FLOAT, low, low, FLOAT], strict=True))


def test_layer_bits_of_megvii_are_of_weights_from_the_first_layer_to_the_last_but_one():
    low = LayerBits(2, 32, 32)
    found = layer_bits(calls(convnet()), quantizer_options("megvii"))
    assert found == dict(zip(CONVNET, [low, low, low, FLOAT], strict=True))


@pytest.mark.parametrize("method", ["dorefa", "lsq", "pact"])
def test_layer_bits_without_float_ends_are_of_every_layer_but_never_of_pixels(method: str):
    low = LayerBits(2, 1, 32)
    found = layer_bits(calls(convnet()), quantizer_options(method, first_last_float=False))
    assert found == dict(zip(CONVNET, [LayerBits(2, 32, 32), low, low, low], strict=True))


def test_layer_bits_of_megvii_with_float_ends_leave_the_first_layer_too():
    found = layer_bits(calls(convnet()), quantizer_options("megvii", first_last_float=True))
    assert found["block1_1.conv"] == found["head"] == FLOAT
    assert found["block2_1.conv"] == LayerBits(2, 32, 32)


def test_layer_bits_follow_overrides_by_name_and_pattern_and_the_later_wins():
    layers = {
        "block2_*": LayerOptions(weight_bits=4),
        "block2_2.conv": LayerOptions(weight_bits=3, activation_bits=5),
        "head": LayerOptions(weight_bits=8),
        "block1_1.conv": LayerOptions(weight_bits=8),
    }
    found = layer_bits(calls(convnet()), quantizer_options(layers=layers))
    assert list(found.values()) == [
        LayerBits(8, 32, 32),
        LayerBits(4, 1, 32),
        LayerBits(3, 5, 32),
        LayerBits(8, 32, 32),
    ]
    turned = dict(reversed(layers.items()))
    assert (
        layer_bits(calls(convnet()), quantizer_options(layers=turned))["block2_2.conv"].weight == 4
    )


def test_layer_bits_of_a_pattern_pass_the_first_layers_pixels_over():
    layers = {"*": LayerOptions(activation_bits=4)}
    found = layer_bits(calls(convnet()), quantizer_options(layers=layers))
    assert [bits.activation for bits in found.values()] == [32, 4, 4, 4]


def test_quantizers_stand_where_the_bits_say():
    model = quantize_(
        convnet(), quantizer_options(layers={"head": LayerOptions(weight_bits=3)}), SHAPE
    )
    kinds = [type(model.get_submodule(name)) for name in CONVNET]
    assert kinds == [nn.Conv2d, QuantizedConv2d, QuantizedConv2d, QuantizedLinear]
    assert list(activation_quantizers(model)) == ["block2_1.conv", "block2_2.conv"]
    megvii = quantize_(convnet(), quantizer_options("megvii"), SHAPE)
    assert list(activation_quantizers(megvii)) == [f"{name[:8]}.relu" for name in CONVNET[:3]]


# Putting on and taking off


@pytest.mark.parametrize("method", METHODS)
def test_quantize_keeps_names_and_values_beside_what_is_learned(method: str):
    model = convnet()
    before, weights = copies(model.state_dict()), list(model.parameters())
    assert quantize_(model, quantizer_options(method), SHAPE) is model
    after = model.state_dict()
    learned = {
        "dorefa": [],
        "megvii": [],
        "pact": ["input_quantizer.clip"],
        "lsq": ["weight_quantizer.step", "input_quantizer.step"],
    }
    new = {f"{layer}.{name}" for layer in CONVNET[1:3] for name in learned[method]}
    assert after.keys() - before.keys() == new
    assert same(before, {name: after[name] for name in before})
    assert {id(weight) for weight in weights} <= {id(weight) for weight in model.parameters()}
    assert all(model.get_parameter(name).requires_grad for name in new)


@pytest.mark.parametrize("method", ["dorefa", "lsq", "pact"])
def test_quantize_at_32_bits_leaves_the_model_float(method: str):
    model = quantize_(convnet(), quantizer_options(method, 32, 32), SHAPE)
    assert not is_quantized(model)
    assert str(model) == str(convnet())


def test_quantize_with_gradients_alone_changes_no_values():
    model = quantize_(convnet(), quantizer_options(weights=32, inputs=32, gradient_bits=2), SHAPE)
    assert torch.equal(model(images()), convnet()(images()))


@pytest.mark.parametrize("method", METHODS)
def test_quantize_leaves_modes_and_random_state_as_they_were(method: str):
    model = convnet()
    model.block1_1.eval()
    before = modes(model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quantize_(model, quantizer_options(method), SHAPE)
    assert torch.equal(torch.rand(3), expected)
    after = modes(model)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("method", METHODS)
def test_quantized_layers_see_no_more_levels_than_their_bits_allow(method: str):
    model = quantize_(convnet(), quantizer_options(method, first_last_float=False), SHAPE)
    calibrate_(model, images())
    seen: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update(
                    {name: len(output.unique()) - 2**module.bits}
                )
            )
    model(images())
    assert len(seen) == 7  # of four weights, and of three inputs or ReLUs
    assert max(seen.values()) <= 0


@pytest.mark.parametrize(
    "padding", [{"padding": 1, "padding_mode": "reflect"}, {"padding": "same"}], ids=str
)
def test_quantized_convolution_pads_as_its_float_layer_did(padding: dict[str, Any]):
    conv = nn.Conv2d(2, 3, 3, **padding)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), conv, nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 5, 5))
    low = nn.Conv2d(2, 3, 3, **padding)
    low.load_state_dict(conv.state_dict())
    quantize_(model, quantizer_options(inputs=32), (1, 5, 5))
    with torch.no_grad():
        low.weight.copy_(dorefa_weights(low.weight, 2))
    x = images(shape=(2, 5, 5))
    torch.testing.assert_close(model[2](x), low(x))


def test_quantized_linear_takes_the_gradient_of_its_output_with_few_levels():
    model = quantize_(mlp(), quantizer_options(weights=32, inputs=32, gradient_bits=1), SHAPE)
    found = model(images(1))
    F.cross_entropy(found, torch.tensor([0])).backward()
    bias = model.linear2.bias.grad  # of one sample: the gradient of its output
    assert len(bias.abs().unique()) == 1
    assert len(model.linear3.bias.grad.abs().unique()) > 1


# Models run


@pytest.mark.parametrize(
    ("name", "arguments", "method", "more"),
    [
        ("mlp", {"hidden": [6, 5]}, "dorefa", {}),
        ("mlp", {"hidden": [6, 5]}, "lsq", {"signed_levels": "without-zero"}),
        ("mlp", {"hidden": [6, 5]}, "pact", {"first_last_float": False}),
        ("convnet", SMALL, "dorefa", {"gradient_bits": 4}),
        ("convnet", SMALL, "megvii", {}),
        ("convnet", SMALL, "lsq", {}),
        ("convnet", SMALL, "pact", {}),
        ("resnet20", {"width": 2}, "dorefa", {"gradient_bits": 6}),
        ("resnet20", {"width": 2}, "megvii", {}),
        ("resnet20", {"width": 2}, "lsq", {}),
        ("resnet18", {}, "dorefa", {}),
        ("mobilenet_v2", {}, "lsq", {}),
    ],
)
def test_quantized_model_runs_forward_and_backward(
    name: str, arguments: dict[str, Any], method: str, more: dict[str, Any]
):
    shape = (3, 32, 32) if name in ("resnet18", "mobilenet_v2") else SHAPE
    model = build_model(name, arguments, shape=shape, classes=3, seed=0)
    quantize_(model, quantizer_options(method, 2, 2, **more), shape)
    batch = images(4, shape=shape)
    calibrate_(model, batch)
    logits = model(batch)
    assert logits.shape == (4, 3)
    torch.manual_seed(0)  # of the gradients' noise and of dropout
    F.cross_entropy(model(batch), torch.tensor([0, 1, 2, 0])).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert sum(bool(p.grad.any()) for p in model.parameters() if p.grad is not None) > 4
    assert model.eval()(batch).isfinite().all()


# Refusals: the rule and the choices


@pytest.mark.parametrize("bits", [-1, 0, 9, 16, 33])
@pytest.mark.parametrize("key", ["weight_bits", "activation_bits", "gradient_bits"])
def test_bits_are_one_to_eight_or_float(key: str, bits: int):
    with pytest.raises(ValidationError, match=f"must be 1 to 8, or 32 for float, but got {bits}"):
        QuantizerOptions.model_validate({key: bits})
    if key != "gradient_bits":
        with pytest.raises(ValidationError, match=f"1 to 8, or 32 for float, but got {bits}"):
            LayerOptions.model_validate({key: bits})


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_bits_of_the_rule_are_taken(bits: int):
    found = QuantizerOptions(weight_bits=bits, activation_bits=bits, gradient_bits=bits)
    assert (found.weight_bits, found.activation_bits, found.gradient_bits) == (bits, bits, bits)


@pytest.mark.parametrize(
    ("table", "rule", "choice"),
    [
        (
            {"method": "lsq", "weight_bits": 1, "signed_levels": "with-zero"},
            "signed levels with a zero need at least 2 bits, but got 1 bit",
            'signed_levels = "without-zero" ({-1, +1}) or more bits',
        ),
        (
            {
                "method": "lsq",
                "weight_bits": 2,
                "signed_levels": "with-zero",
                "layers": {"head": {"weight_bits": 1}},
            },
            "signed levels with a zero need at least 2 bits, but got 1 bit",
            'signed_levels = "without-zero" ({-1, +1}) or more bits',
        ),
        (
            {"method": "lsq", "gradient_bits": 4},
            "gradient_bits goes with dorefa, which alone has quantized gradients, but got 4",
            "use 32, or method = dorefa",
        ),
        (
            {"method": "dorefa", "signed_levels": "with-zero"},
            "signed_levels goes with lsq, but got it with dorefa",
            "leave it out",
        ),
        (
            {"method": "megvii", "layers": {"head": {"activation_bits": 2}}},
            "megvii quantizes what leaves each ReLU with the one activation_bits",
            "leave them out, or choose another method",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(table: dict[str, Any], rule: str, choice: str):
    with pytest.raises(ValidationError) as caught:
        QuantizerOptions.model_validate(table)
    assert rule in str(caught.value)
    assert choice in str(caught.value)


def signed_inputs() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)
    )


def shared_relu() -> nn.Module:
    relu = nn.ReLU()
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    return nn.Sequential(
        first, nn.BatchNorm2d(3), relu, second, relu, nn.Flatten(), nn.Linear(48, 3)
    )


@pytest.mark.parametrize(
    ("model", "wanted", "rule", "choice"),
    [
        (
            lambda: mlp(max_norm=1.0),
            quantizer_options(),
            "layer 'linear2': quantizers go on plain Conv2d and Linear layers, but it is a Bounded",
            "choose another model, leave max_norm out, or give it 32 bits under quantizer.layers",
        ),
        (
            lambda: quantize_(mlp(), quantizer_options(), SHAPE),
            quantizer_options(),
            "layer 'linear2': quantizers go on plain Conv2d and Linear layers, but it is a Quanti",
            "choose another model",
        ),
        (
            signed_inputs,
            quantizer_options(),
            "layer '3': dorefa quantizes inputs that are not negative, but this layer's can be",
            'choose method = "lsq", or activation_bits = 32 under quantizer.layers',
        ),
        (
            signed_inputs,
            quantizer_options("pact"),
            "layer '3': pact quantizes inputs that are not negative",
            'choose method = "lsq"',
        ),
        (
            convnet,
            quantizer_options(layers={"block2_3.conv": LayerOptions(weight_bits=4)}),
            "quantizer.layers: must name layers of the model, but got 'block2_3.conv'",
            "did you mean 'block2_",
        ),
        (
            convnet,
            quantizer_options(layers={"block1_1.conv": LayerOptions(activation_bits=4)}),
            "the first layer's inputs are pixels, which first_last_bits alone quantizes, but got 4",
            "leave it out",
        ),
        (
            mlp,
            quantizer_options("megvii"),
            "megvii quantizes blocks of convolution, batch norm and ReLU, but the model has none",
            "choose dorefa, lsq or pact",
        ),
        (
            shared_relu,
            quantizer_options("megvii"),
            "layer '2': megvii needs a ReLU of its own in each block, but this one is called",
            "choose dorefa, lsq or pact",
        ),
        (
            signed_inputs,
            quantizer_options("lsq", 2, 1, signed_levels="with-zero"),
            "signed levels with a zero need at least 2 bits, but got 1 bit",
            '"without-zero" ({-1, +1}) or more bits',
        ),
    ],
)
def test_quantize_refuses_with_the_rule_and_the_choices_and_leaves_the_model_as_it_was(
    model: Any, wanted: QuantizerOptions, rule: str, choice: str
):
    built = model()
    before, state = str(built), copies(built.state_dict())
    with pytest.raises(ConfigError) as caught:
        quantize_(built, wanted, SHAPE)
    assert rule in str(caught.value)
    assert choice in str(caught.value)
    assert str(built) == before
    assert same(state, built.state_dict())


def test_quantize_takes_what_the_refusals_advise():
    as_float = LayerOptions(weight_bits=32, activation_bits=32)
    wanted = quantizer_options(layers={"linear[12]": as_float}, first_last_float=False)
    quantize_(mlp(max_norm=1.0), wanted, SHAPE)
    layers = {"3": LayerOptions(activation_bits=32)}
    for wanted in (quantizer_options("lsq"), quantizer_options(layers=layers)):
        assert is_quantized(quantize_(signed_inputs(), wanted, SHAPE))


# Calibration


@pytest.mark.parametrize("method", METHODS)
def test_calibrate_leaves_buffers_modes_hooks_and_weights_as_they_were(method: str):
    model = quantize_(convnet(), quantizer_options(method), SHAPE)
    model(images(seed=2))  # statistics that are not those of a fresh model
    model.block2_1.eval()
    state, before = copies(model.state_dict()), modes(model)
    calibrate_(model, images())
    after = model.state_dict()
    learned = {name for name in state if name.endswith("input_quantizer.step")}
    assert len(learned) == (2 if method == "lsq" else 0)
    assert all(torch.equal(after[name], state[name]) for name in state.keys() - learned)
    assert all(not torch.equal(after[name], state[name]) for name in learned)
    assert modes(model) == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_calibrate_is_deterministic_and_draws_no_random_number():
    found = []
    for seed in (1, 2):
        model = build_model(
            "mlp", {"hidden": [6, 5], "dropout": [0.5] * 3}, shape=SHAPE, classes=3, seed=0
        )
        quantize_(model, quantizer_options("lsq"), SHAPE)
        torch.manual_seed(seed)
        expected = torch.rand(2)
        torch.manual_seed(seed)
        calibrate_(model, images())
        assert torch.equal(torch.rand(2), expected)
        found.append(copies(model.state_dict()))
    assert same(*found)


def test_calibrate_starts_each_step_at_the_papers_behind_those_before_it():
    model = quantize_(convnet(), quantizer_options("lsq", 2, 2), SHAPE)
    calibrate_(model, images())
    x = images()
    convolved = model.block1_1.conv(x)
    x = F.batch_norm(convolved, None, None, training=True)
    x = F.max_pool2d(x, 2).relu()
    step = model.block2_1.conv.input_quantizer.step
    torch.testing.assert_close(step.detach(), 2 * x.mean() / 3**0.5)
    x = F.batch_norm(model.block2_1.conv(x), None, None, training=True).relu()
    step = model.block2_2.conv.input_quantizer.step
    torch.testing.assert_close(step.detach(), 2 * x.mean() / 3**0.5)


def test_calibrate_that_fails_leaves_the_model_as_it_was():
    model = quantize_(convnet(), quantizer_options("lsq"), SHAPE)
    state, before = copies(model.state_dict()), modes(model)
    with pytest.raises(RuntimeError):
        calibrate_(model, torch.zeros(2, 5, 8, 8))
    assert same(state, model.state_dict())
    assert modes(model) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_quantized_relu_keeps_the_clip_of_the_quantizer():
    model = quantize_(convnet(), quantizer_options("megvii", 32, 2), SHAPE)
    relus = [module for module in model.modules() if isinstance(module, QuantizedReLU)]
    assert len(relus) == 3
    assert relus[0](torch.tensor([-5.0, 0.0, 5.0, 50.0])).tolist() == pytest.approx(
        [0, 0, 2 / 3, 1]
    )


def test_quantize_refuses_a_model_without_a_layer_between_its_first_and_its_last() -> None:
    model = build_model("mlp", {"hidden": [4]}, shape=(1, 4, 4), classes=3, seed=0)
    few = QuantizerOptions(weight_bits=2)
    with pytest.raises(ConfigError, match=r"must have a layer to quantize.*first_last_float"):
        quantize_(model, few, (1, 4, 4))
    assert not is_quantized(quantize_(model, QuantizerOptions(), (1, 4, 4)))
    quantize_(model, few.model_copy(update={"first_last_float": False}), (1, 4, 4))
    assert is_quantized(model)
