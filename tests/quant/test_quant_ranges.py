import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import quantizer_options
from torch import Tensor

from kd_ray.config import QuantizerOptions
from kd_ray.config.quantizer import LayerOptions
from kd_ray.errors import ConfigError
from kd_ray.models import build_model
from kd_ray.quant import calibrate_, model_cost, quantize_
from kd_ray.quant.apply import LAYERS, LayerBits, layer_bits
from kd_ray.quant.quantizers import Quantizer, RangeActivations
from kd_ray.quant.ranges import FOLLOWED, range_weights
from kd_ray.quant.trace import trace_layers

SHAPE = (3, 8, 8)
NAMES = ["block1_1.conv", "block2_1.conv", "block2_2.conv", "head"]
bit_counts = st.integers(2, 8)
vectors = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20).map(torch.tensor)


def convnet() -> torch.nn.Module:
    return build_model("convnet", {"groups": [[4], [4, 6]]}, shape=SHAPE, classes=3, seed=0)


@given(vectors, bit_counts)
def test_weights_lie_at_the_nearest_level_and_the_largest_one_stays(w: Tensor, bits: int):
    found = range_weights(w, bits)
    top, highest = float(w.abs().max()), 2 ** (bits - 1) - 1
    step = max(top / highest, 1e-6)
    assert ((found - w).abs() <= step * 0.5001).all()
    level = found / step
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
    if top > 1e-3:
        assert float(found.abs().max()) == pytest.approx(top, rel=1e-6)


@given(vectors, bit_counts)
def test_weights_have_the_gradient_of_the_identity(w: Tensor, bits: int):
    w.requires_grad_()
    (gradient,) = torch.autograd.grad(range_weights(w, bits).sum(), w)
    assert torch.equal(gradient, torch.ones_like(w))


def test_range_of_activations_is_followed_in_training_alone():
    quantizer = RangeActivations(8, signed=False)
    x = torch.tensor([0.0, 1.0, 51.0])
    quantizer.calibrate_(x)
    assert quantizer.grid() == pytest.approx((0, 0.2))
    torch.testing.assert_close(
        quantizer.eval()(torch.tensor([0.09, 0.11, 60.0])), x * x.new([0, 0.2, 1])
    )
    assert quantizer.grid() == pytest.approx((0, 0.2))
    quantizer.train()(2 * x)
    assert quantizer.grid()[1] == pytest.approx(0.2 + FOLLOWED * 0.2)


@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq", "pact"])
def test_ends_have_eight_bits_of_weights_and_inputs_with_every_method(method: str):
    options = quantizer_options(method, first_last_bits=8)
    found = layer_bits(trace_layers(convnet(), SHAPE, LAYERS), options)
    low = LayerBits(2, 32 if method == "megvii" else 1, 32)
    assert found == dict(
        zip(NAMES, [LayerBits(8, 8, 32), low, low, LayerBits(8, 8, 32)], strict=True)
    )
    model = quantize_(convnet(), options, SHAPE)
    calibrate_(model, torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)))
    levels = [model.get_submodule(f"{NAMES[at]}.input_quantizer").levels for at in (0, -1)]
    assert levels == [(-128, 127), (0, 255)]  # pixels have a code of 0, for the border
    seen = {}
    for end in (NAMES[0], NAMES[-1]):
        for name in ("weight_quantizer", "input_quantizer"):
            quantizer = model.get_submodule(f"{end}.{name}")
            assert isinstance(quantizer, Quantizer)
            seen[end, name] = quantizer.bits
    assert set(seen.values()) == {8}
    model(torch.zeros(2, *SHAPE)).sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


def test_ends_can_still_be_other_layers_among_layers():
    layers = {
        "head": LayerOptions(weight_bits=32, activation_bits=32),
        "*1.conv": LayerOptions(activation_bits=4),
    }
    options = quantizer_options(first_last_bits=8, layers=layers)
    found = layer_bits(trace_layers(convnet(), SHAPE, LAYERS), options)
    assert found["head"] == LayerBits(32, 32, 32)
    assert found["block1_1.conv"] == LayerBits(8, 8, 32)  # pixels keep theirs


def test_an_end_of_one_bit_is_refused():
    options = quantizer_options(first_last_bits=8, layers={"head": LayerOptions(weight_bits=1)})
    with pytest.raises(ConfigError, match="layer 'head': with first_last_bits an end has levels"):
        quantize_(convnet(), options, SHAPE)


@pytest.mark.parametrize("choice", [False, True])
def test_bits_of_ends_beside_float_ends_are_refused(choice: bool):
    with pytest.raises(
        ValueError, match=rf"but got first_last_float = {str(choice).lower()} beside"
    ):
        QuantizerOptions(first_last_bits=8, first_last_float=choice)


@pytest.mark.parametrize("bits", [1, 4, 16, 32])
def test_ends_have_eight_bits_or_none(bits: int):
    with pytest.raises(ValueError, match="Input should be 8"):
        QuantizerOptions.model_validate({"first_last_bits": bits})


def test_unset_it_is_not_in_the_identity_of_a_student():
    table = quantizer_options().model_dump(mode="json", exclude_none=True)
    assert "first_last_bits" not in table


def test_cost_counts_a_byte_for_each_weight_of_the_ends():
    plain, ends = (
        model_cost(quantize_(convnet(), options, SHAPE), SHAPE)
        for options in (quantizer_options(), quantizer_options(first_last_bits=8))
    )
    first, *_, last = ends.layers
    assert (first.weight_bits, first.activation_bits) == (8, 8)
    assert (last.weight_bits, last.activation_bits) == (8, 8)
    assert first.packed_bytes == 4 * 27 + 4
    assert last.packed_bytes == 6 * 3 + 4 + 4 * 3
    # Three bytes less for each weight, a scale for each layer, and a step for the inputs of each.
    assert ends.packed_bytes == plain.packed_bytes - 3 * (4 * 27 + 6 * 3) + 2 * 4 + 2 * 4
    assert ends.bit_operations < plain.bit_operations
