"""The eight traps of quantization, each shown in numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import normal
from torch import Tensor, nn

from kd_ray.config import QuantizerOptions
from kd_ray.models import build_model
from kd_ray.quant import activity, quantize_
from kd_ray.quant.dorefa import dorefa_activations, dorefa_weights
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.rounding import fake_quantize

SHAPE = (1, 8, 8)


def kaiming(outputs: int, inputs: int) -> Tensor:
    """Weights of a 3 x 3 convolution before training."""
    return normal(outputs, inputs, 3, 3) * math.sqrt(2 / (9 * outputs))


@pytest.mark.parametrize("bits", range(2, 9))
def test_trap_1_dorefa_weights_have_no_zero_level(bits: int):
    n = 2**bits - 1
    found = dorefa_weights(torch.tensor([0.0, -1.0, 1.0]), bits)
    torch.testing.assert_close(found, torch.tensor([1 / n, -1, 1]))
    assert (dorefa_weights(normal(500), bits) != 0).all()


def test_trap_2_dorefa_weights_follow_the_largest_and_crowd_the_middle_levels():
    w = kaiming(64, 64)
    middle = (dorefa_weights(w, 2).abs() < 0.5).float().mean()
    assert float(middle) == pytest.approx(0.996, abs=0.002)
    # One outlier moves the others; what follows the mean hardly moves.
    outlier = w.clone()
    outlier.view(-1)[0] = 10 * w.abs().max()
    assert (dorefa_weights(outlier, 2).view(-1)[1:].abs() < 0.5).all()
    tail = (megvii_weights(w, 2).abs() > 0.99 * megvii_weights(w, 2).max()).float().mean()
    moved = megvii_weights(outlier, 2)
    assert float((moved.abs() > 0.99 * moved.max()).float().mean()) == pytest.approx(
        float(tail), abs=0.01
    )


def test_trap_3_dorefa_weights_lose_their_scale_which_only_batch_norm_makes_harmless():
    w, x = 1e-3 * normal(4, 3, 3, 3), normal(8, 3, 6, 6)
    small, large = (F.conv2d(x, dorefa_weights(scale * w, 2)) for scale in (1, 8))
    torch.testing.assert_close(small, large)  # the float layer's output grows eightfold

    def normalized(y: Tensor) -> Tensor:
        return F.batch_norm(y, None, None, training=True)

    exact = F.conv2d(x, w)
    assert (small.std() / exact.std()).item() > 100
    correlation = torch.corrcoef(
        torch.stack([normalized(small).ravel(), normalized(exact).ravel()])
    )
    assert correlation[0, 1].item() > 0.8
    assert (normalized(small).std() / normalized(1e3 * exact).std()).item() == pytest.approx(
        1, 0.01
    )


def test_trap_4_torch_rounds_a_half_to_the_even_neighbour_and_the_exercise_upwards():
    assert torch.tensor([0.5, 1.5, 2.5]).round().tolist() == [0, 2, 2]
    half = torch.tensor([0.5])
    assert dorefa_activations(half, 1).item() == fake_quantize(half, 1).item() == 0
    assert megvii_activations(10 * half, 1).item() == fake_quantize(half, 1, half_up=True) == 1
    even = torch.tensor([2.5 / 7], dtype=torch.float64)
    assert dorefa_activations(even, 3).item() == pytest.approx(2 / 7)
    assert megvii_activations(10 * even, 3).item() == pytest.approx(3 / 7)


def test_trap_5_one_bit_activations_of_the_exercise_hardly_fire_before_training():
    x = normal(400_000)  # what batch norm lets through; the exercise's block doubles it
    assert dorefa_activations(x, 1).mean().item() == pytest.approx(0.3085, abs=0.003)
    assert megvii_activations(2 * x, 1).mean().item() == pytest.approx(0.0062, abs=0.0005)


def test_trap_5_activity_tells_the_on_fraction_of_each_layer():
    arguments = {"groups": [[16, 16, 16]]}  # without pooling, which takes the largest of four
    batch, on = normal(64, *SHAPE), {}
    for method, layer in (("megvii", "block1_1.relu"), ("dorefa", "block1_2.conv")):
        model = build_model("convnet", arguments, shape=SHAPE, classes=2, seed=0)
        quantize_(model, QuantizerOptions(method=method, activation_bits=1), SHAPE)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model(batch)
        on[method] = activity(model, batch)[layer]["on"]
    assert on["dorefa"] == pytest.approx(0.31, abs=0.02)
    assert on["megvii"] == pytest.approx(0.006, abs=0.003)


def test_trap_6_in_place_quantization_would_drop_the_gradient_of_tanh():
    w = torch.tensor([0.1, 0.9, -2.0, 2.5], requires_grad=True)
    found = dorefa_weights(w, 2)
    assert w._version == 0  # the layer's own weights stay float
    (gradient,) = torch.autograd.grad(found[:3].sum(), w)
    t = w.detach().tanh()
    torch.testing.assert_close(gradient[:3], ((1 - t**2) / t.max())[:3])
    in_place = w.detach().clone().requires_grad_()
    with torch.no_grad():
        in_place.copy_(dorefa_weights(in_place, 2))
    (dropped,) = torch.autograd.grad(in_place[:3].sum(), in_place)
    assert dropped.tolist() == [1, 1, 1, 0]
    assert gradient[2] < 0.08  # tanh is flat there, of which nothing is left in place


def test_trap_6_a_step_of_training_moves_float_weights_by_less_than_a_level():
    model = build_model("convnet", {"groups": [[4, 4]]}, shape=SHAPE, classes=2, seed=0)
    quantize_(model, QuantizerOptions(weight_bits=2, activation_bits=2), SHAPE)
    weight = model.block1_2.conv.weight
    before = weight.detach().clone()
    F.cross_entropy(model(normal(4, *SHAPE)), torch.tensor([0, 1, 0, 1])).backward()
    assert torch.equal(weight, before)
    torch.optim.SGD([weight], lr=1e-3).step()
    assert 0 < (weight - before).abs().max().item() < 1e-2
    assert len(weight.unique()) > 4


@pytest.mark.parametrize("inputs", [1, 2])
def test_trap_7_a_quantized_last_layer_bounds_the_logits_and_so_the_soft_targets(inputs: int):
    units, classes = 4, 10
    model = build_model("mlp", {"hidden": [units]}, shape=SHAPE, classes=classes, seed=0)
    with torch.no_grad():  # a head that is as sure as can be
        model.linear1.bias.fill_(50.0)
        model.linear2.weight.fill_(-100.0)
        model.linear2.weight[0] = 100.0
        model.linear2.bias.zero_()
    sure = model(normal(8, *SHAPE)).softmax(dim=-1)[:, 0]
    assert (sure > 0.999999).all()
    options = QuantizerOptions(weight_bits=2, activation_bits=inputs, first_last_float=False)
    logits = quantize_(model, options, SHAPE)(normal(8, *SHAPE))
    # Weights in [-1, 1] and inputs in [0, 1]: at most one for each unit, whatever is learned.
    assert logits.abs().max().item() == pytest.approx(units)
    bound = 1 / (1 + (classes - 1) * math.exp(-2 * units))
    assert logits.softmax(dim=-1).max().item() == pytest.approx(bound)
    assert -math.log(bound) > 0.002  # so far from a target of one it stays
    head = nn.Linear(units, classes)
    for scale in (0.1, 10.0, 1e4):
        w = scale * normal(classes, units, seed=1)
        bounded = F.linear(
            dorefa_activations(1e3 * normal(64, units), inputs), dorefa_weights(w, 2)
        )
        assert bounded.abs().max() <= units
    assert head(1e3 * normal(64, units)).abs().max() > units


def test_trap_8_batch_norm_folds_into_thresholds_and_not_into_dorefa_weights():
    x = dorefa_activations(normal(32, 3, 6, 6), 1)
    w = normal(8, 3, 3, 3)
    norm = nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.2, 3.0, -1.0, 0.7, -0.3, 1.5, 2.0, 0.5]))
        norm.bias.copy_(normal(8, seed=1))
        norm.running_mean.copy_(normal(8, seed=2))
        norm.running_var.copy_(normal(8, seed=3).exp())
    convolved = F.conv2d(x, dorefa_weights(w, 2))
    with torch.no_grad():
        on = dorefa_activations(norm(convolved), 1)

    def channels(values: Tensor) -> Tensor:
        return values.detach().view(1, -1, 1, 1)

    sigma = (norm.running_var + norm.eps).sqrt()
    threshold = channels(norm.running_mean + (0.5 - norm.bias) * sigma / norm.weight)
    rising = channels(norm.weight) > 0
    by_threshold = torch.where(rising, convolved > threshold, convolved < threshold).float()
    assert torch.equal(by_threshold, on)

    factor = (norm.weight / sigma).detach()
    shift = (norm.bias - norm.running_mean * norm.weight / sigma).detach()
    folded = F.conv2d(x, dorefa_weights(w * factor.view(-1, 1, 1, 1), 2), shift)
    assert (dorefa_activations(folded, 1) != on).float().mean().item() > 0.1
    exact = F.conv2d(x, w * factor.view(-1, 1, 1, 1), shift)  # of float weights folding is right
    with torch.no_grad():
        torch.testing.assert_close(exact, norm(F.conv2d(x, w)), rtol=1e-4, atol=1e-4)
