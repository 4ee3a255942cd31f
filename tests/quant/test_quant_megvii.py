from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal
from torch import nn

from kd_ray.config import QuantizerOptions
from kd_ray.models import build_model
from kd_ray.quant import quantize_
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.quantizers import MegviiNorm

few = settings(max_examples=20)
seeds = st.integers(0, 2**20)
bit_counts = st.integers(1, 8)


# Weights


@few
@given(seeds, bit_counts)
def test_megvii_weights_lie_on_the_grid_between_plus_and_minus_the_mean_of_tanh(
    seed: int, bits: int
):
    n = 2**bits - 1
    w = normal(50, seed=seed)
    s = 2 * w.tanh().abs().mean()
    found = megvii_weights(w, bits)
    level = (found / s + 0.5) * n
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.abs().max(), s / 2)


@few
@given(seeds, bit_counts)
def test_megvii_weights_never_fall_and_have_the_gradient_of_the_identity(seed: int, bits: int):
    w = (10 * normal(50, seed=seed)).sort().values.requires_grad_()
    found = megvii_weights(w, bits)
    assert (found.detach().diff() >= 0).all()
    cotangent = normal(50, seed=seed + 1)
    (gradient,) = torch.autograd.grad(found, w, cotangent)
    assert torch.equal(gradient, cotangent)


def test_megvii_weights_are_those_computed_by_hand():
    w = torch.tensor([-0.6, -0.1, 0.0, 0.5]).atanh()
    # mean|t| = .3, s = .6; clip(t / s) + 1/2 = 0 1/3 1/2 1; times 3 = 0 1 1.5 3; half up = 0 1 2 3
    expected = 0.6 * (torch.tensor([0, 1 / 3, 2 / 3, 1]) - 0.5)
    torch.testing.assert_close(megvii_weights(w, 2), expected)
    torch.testing.assert_close(megvii_weights(w, 1), torch.tensor([-0.3, -0.3, 0.3, 0.3]))


@pytest.mark.parametrize("bits", range(1, 9))
def test_megvii_weights_that_are_all_zero_stay_nothing_with_a_finite_gradient(bits: int):
    w = torch.zeros(4, requires_grad=True)
    found = megvii_weights(w, bits)
    assert found.abs().max() < 1e-30
    assert torch.equal(torch.autograd.grad(found.sum(), w)[0], torch.ones(4))


# Activations


@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        (1, [0, 0, 0, 0, 0, 1, 1, 1, 1]),
        (2, [0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1, 1, 1]),
    ],
)
def test_megvii_activations_are_those_computed_by_hand(bits: int, levels: list[float]):
    x = torch.tensor([-1.0, 0.0, 1.6, 1.7, 4.9, 5.0, 8.4, 10.0, 99.0], requires_grad=True)
    found = megvii_activations(x, bits)  # a half goes up: 5 is on, and 3/2 of 3 is 2/3
    torch.testing.assert_close(found, torch.tensor(levels, dtype=torch.float32))
    found.sum().backward()
    expected = torch.tensor([0, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0, 0])
    torch.testing.assert_close(x.grad, expected)


@few
@given(seeds, bit_counts)
def test_megvii_activations_never_fall_and_have_two_to_the_k_levels(seed: int, bits: int):
    found = megvii_activations((10 * normal(300, seed=seed)).sort().values, bits)
    assert (found.diff() >= 0).all()
    assert found[0] == 0
    assert found[-1] == 1
    assert len(found.unique()) <= 2**bits


# The block


def test_megvii_norm_is_batch_norm_with_the_factor_of_the_exercise():
    plain, mine = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        mine.weight.copy_(torch.tensor([-2.0, 0.0, 1.0]))
        plain.weight.copy_(torch.tensor([3.0, 1.0, 2.0]))
        for norm in (plain, mine):
            norm.bias.copy_(torch.tensor([1.0, -1.0, 0.5]))
    mine.__class__ = MegviiNorm
    for training in (True, True, False):
        x = normal(4, 3, 5, 5)
        torch.testing.assert_close(mine.train(training)(x), plain.train(training)(x))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, mine.get_buffer(name))


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}], ids=str)
def test_megvii_norm_takes_what_batch_norm_takes(options: dict[str, Any]):
    plain, mine = nn.BatchNorm2d(3, **options), nn.BatchNorm2d(3, **options)
    nn.init.zeros_(mine.weight)  # |a| + 1 is batch norm's own start
    mine.__class__ = MegviiNorm
    for training in (True, True, False):
        x = normal(4, 3, 5, 5, seed=int(training))
        torch.testing.assert_close(mine.train(training)(x), plain.train(training)(x))


def test_megvii_block_starts_at_twice_the_normalized_values_and_quantizes_behind_the_relu():
    options = {"groups": [[4], [4]]}
    model = build_model("convnet", options, shape=(1, 8, 8), classes=2, seed=0)
    quantize_(model, QuantizerOptions(method="megvii", weight_bits=2, activation_bits=1), (1, 8, 8))
    block, x = model.block1_1, normal(4, 1, 8, 8)
    convolved = nn.functional.conv2d(x, megvii_weights(block.conv.weight, 2), padding=1)
    normalized = nn.functional.batch_norm(convolved, None, None, training=True)
    pooled = nn.functional.max_pool2d(2 * normalized, 2)
    expected = ((0.1 * pooled).clamp(0, 1) + 0.5).floor()
    torch.testing.assert_close(block(x), expected)
    assert type(model.head) is nn.Linear
