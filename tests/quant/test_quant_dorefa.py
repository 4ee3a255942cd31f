import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal

from kd_ray.quant.dorefa import (
    dorefa_activations,
    dorefa_gradients,
    dorefa_weights,
    quantized_gradient,
)

few = settings(max_examples=20)
seeds = st.integers(0, 2**20)
bit_counts = st.integers(1, 8)
many_bits = st.integers(2, 8)


# Weights


@few
@given(seeds, many_bits)
def test_dorefa_weights_are_odd_levels_from_minus_one_to_one_and_never_zero(seed: int, bits: int):
    n = 2**bits - 1
    level = dorefa_weights(normal(50, seed=seed), bits) * n
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
    assert (level.round().int() % 2).abs().eq(1).all()
    assert level.abs().max() == pytest.approx(n)


@few
@given(seeds, bit_counts)
def test_dorefa_weights_never_fall_and_change_sign_with_the_weights(seed: int, bits: int):
    w = normal(50, seed=seed).sort().values
    found = dorefa_weights(w, bits)
    assert (found.diff() >= 0).all()
    torch.testing.assert_close(dorefa_weights(-w, bits), -found)
    assert torch.equal(found > 0, w > 0)


@few
@given(seeds)
def test_dorefa_weights_of_one_bit_are_idempotent(seed: int):
    once = dorefa_weights(normal(50, seed=seed), 1)
    torch.testing.assert_close(dorefa_weights(once, 1), once)


@few
@given(seeds, many_bits)
def test_dorefa_weights_have_the_gradient_of_the_map_without_rounding(seed: int, bits: int):
    w, cotangent = normal(50, seed=seed).requires_grad_(), normal(50, seed=seed + 1)
    smooth = w.tanh() / w.tanh().abs().max()
    (expected,) = torch.autograd.grad(smooth, w, cotangent)
    (found,) = torch.autograd.grad(dorefa_weights(w, bits), w, cotangent)
    torch.testing.assert_close(found, expected)


def test_dorefa_weights_of_one_bit_are_the_mean_with_the_sign_of_each():
    w = torch.tensor([[-3.0, 0.0], [1.0, 2.0]], requires_grad=True)
    found = dorefa_weights(w, 1)
    assert found.tolist() == [[-1.5, 1.5], [1.5, 1.5]]
    found.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert w.grad is not None
    assert w.grad.tolist() == [[1, 2], [3, 4]]  # no gradient through the mean


def test_dorefa_weights_of_two_bits_are_those_computed_by_hand():
    t = torch.tensor([-0.4, -0.2, 0.0, 0.3, 0.8])
    w = t.atanh().requires_grad_()
    found = dorefa_weights(w, 2)
    # t / 1.6 + 1/2 = .25 .375 .5 .6875 1; times 3 = .75 1.125 1.5 2.0625 3; rounded = 1 1 2 2 3
    torch.testing.assert_close(found, torch.tensor([-1 / 3, -1 / 3, 1 / 3, 1 / 3, 1]))
    found.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    # (1 - t^2) / .8 times 1 2 3 4; of the largest: -(1 - .64) (-.4 - .4 + 0 + 1.2) / .64
    expected = torch.tensor([0.84 / 0.8, 0.96 / 0.8 * 2, 3.75, 0.91 / 0.8 * 4, -0.225])
    torch.testing.assert_close(w.grad, expected)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_dorefa_weights_that_are_all_zero_stay_finite_with_a_finite_gradient(bits: int):
    w = torch.zeros(4, requires_grad=True)
    found = dorefa_weights(w, bits)
    level = 0 if bits == 1 else 1 / (2**bits - 1)
    torch.testing.assert_close(found, torch.full((4,), float(level)))
    (gradient,) = torch.autograd.grad(found, w, torch.full((4,), 10.0))
    assert gradient.isfinite().all()


# Activations


@pytest.mark.parametrize(
    ("bits", "levels"),
    [
        (1, [0, 0, 0, 0, 1, 1, 1]),
        (2, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1, 1]),
        (3, [0, 0, 2 / 7, 4 / 7, 5 / 7, 1, 1]),
    ],
)
def test_dorefa_activations_are_those_computed_by_hand(bits: int, levels: list[float]):
    x = torch.tensor([-0.7, 0.0, 0.3, 0.5, 0.7, 1.0, 9.0], requires_grad=True)
    found = dorefa_activations(x, bits)
    torch.testing.assert_close(found, torch.tensor(levels, dtype=torch.float32))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_dorefa_activations_of_one_bit_are_zero_and_one_and_not_the_sign():
    assert dorefa_activations(normal(99), 1).unique().tolist() == [0, 1]


# Gradients


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_dorefa_gradients_pass_values_on_as_they_are(bits: int):
    x = normal(3, 4)
    assert torch.equal(dorefa_gradients(x, bits), x)


def test_dorefa_gradients_of_32_bits_stay_as_they_are():
    x, gradient = normal(3, 4).requires_grad_(), normal(3, 4, seed=1)
    (found,) = torch.autograd.grad(dorefa_gradients(x, 32), x, gradient)
    assert torch.equal(found, gradient)


@few
@given(seeds, bit_counts)
def test_dorefa_gradients_have_two_to_the_k_levels_of_each_sample_within_its_largest(
    seed: int, bits: int
):
    gradient = normal(3, 2, 4, 4, seed=seed) * torch.tensor([1e-3, 1, 50]).view(3, 1, 1, 1)
    x = torch.zeros_like(gradient).requires_grad_()
    (found,) = torch.autograd.grad(dorefa_gradients(x, bits), x, gradient)
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    level = (found / (2 * largest) + 0.5) * (2**bits - 1)
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-3)
    assert (found.abs() <= largest * (1 + 1e-6)).all()
    # The noise is of one step, so nothing moves further than one.
    assert ((found - gradient).abs() <= 2 * largest / (2**bits - 1) * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_gradients_are_right_on_average(bits: int):
    torch.manual_seed(0)
    sample = torch.tensor([1.0, -0.3, 0.05, 0.0, -1.0])
    rows = 20_000
    found = quantized_gradient(sample.expand(rows, 5).contiguous(), bits)
    deviation = 2 / (2**bits - 1) / rows**0.5  # at most: one step, over the root of the rows
    assert ((found.mean(dim=0) - sample).abs() <= 4 * deviation).all()
    assert (found[:, 0] == found[:, 0].max()).all()  # the largest has no level beyond it


def test_dorefa_gradients_of_one_bit_are_plus_or_minus_the_largest_of_the_sample():
    found = quantized_gradient(torch.tensor([[0.1, -0.4, 0.2], [3.0, 1.0, -2.0]]), 1)
    torch.testing.assert_close(found.abs(), torch.tensor([[0.4] * 3, [3.0] * 3]))


def test_dorefa_gradients_draw_their_noise_from_torchs_random_state():
    gradient = normal(4, 50)
    torch.manual_seed(3)
    first, second = quantized_gradient(gradient, 2), quantized_gradient(gradient, 2)
    torch.manual_seed(3)
    assert torch.equal(quantized_gradient(gradient, 2), first)
    assert not torch.equal(first, second)


def test_dorefa_gradients_of_a_sample_without_gradient_stay_nothing():
    found = quantized_gradient(torch.zeros(2, 5), 2)
    assert found.isfinite().all()
    assert found.abs().max() < 1e-30
