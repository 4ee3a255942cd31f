import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.config import Train
from kd_ray.quant.dorefa import dorefa_activations
from kd_ray.quant.pact import CLIP_DECAY, INITIAL_CLIP, pact
from kd_ray.quant.quantizers import PactActivations
from kd_ray.training.optimizer import make_optimizer

few = settings(max_examples=25)
bit_counts = st.integers(1, 8)
clips = st.sampled_from([0.3, 1.0, 2.5, 8.0])
vectors = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20).map(torch.tensor)


@few
@given(vectors, clips, bit_counts)
def test_pact_lies_on_the_grid_at_the_nearest_level(x: Tensor, clip: float, bits: int):
    n = 2**bits - 1
    found = pact(x, torch.tensor(clip), bits)
    level = found * n / clip
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
    assert ((found - x.clamp(0, clip)).abs() <= clip * (0.5 / n + 1e-6)).all()


@few
@given(vectors, clips, bit_counts)
def test_pact_is_idempotent_and_never_falls(x: Tensor, clip: float, bits: int):
    alpha = torch.tensor(clip)
    once = pact(x.sort().values, alpha, bits)
    torch.testing.assert_close(pact(once, alpha, bits), once)
    assert (once.diff() >= 0).all()


@few
@given(vectors, clips, bit_counts)
def test_pact_has_gradient_one_inside_for_x_and_one_above_for_the_clip(
    x: Tensor, clip: float, bits: int
):
    x = torch.cat([x, torch.tensor([0.0, clip])]).requires_grad_()
    alpha = torch.tensor(clip, requires_grad=True)
    of_x, of_clip = torch.autograd.grad(pact(x, alpha, bits).sum(), (x, alpha))
    share = x / alpha
    assert torch.equal(of_x, ((share > 0) & (share < 1)).float())
    assert of_clip == (share >= 1).sum()


@few
@given(vectors, bit_counts)
def test_pact_with_a_clip_of_one_is_dorefas(x: Tensor, bits: int):
    torch.testing.assert_close(pact(x, torch.tensor(1.0), bits), dorefa_activations(x, bits))


@few
@given(vectors, clips, bit_counts, st.sampled_from([0.25, 4.0]))
def test_pact_of_values_and_clip_that_grow_together_grows_with_them(
    x: Tensor, clip: float, bits: int, factor: float
):
    grown = pact(factor * x, torch.tensor(factor * clip), bits)
    torch.testing.assert_close(grown, factor * pact(x, torch.tensor(clip), bits))


def test_pact_of_two_bits_is_that_computed_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.3, 0.4, 1.5, 2.0, 5.0], requires_grad=True)
    alpha = torch.tensor(2.0, requires_grad=True)
    found = pact(x, alpha, 2)  # x n / alpha = - 0 .45 .6 2.25 3 -
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 2 / 3, 4 / 3, 2, 2]))
    cotangent = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    of_x, of_clip = torch.autograd.grad(found, (x, alpha), cotangent)
    assert of_x.tolist() == [0, 0, 3, 4, 5, 0, 0]
    assert of_clip == 13


@pytest.mark.parametrize(("bits", "levels"), [(1, [0, 3]), (2, [0, 1, 2, 3])])
def test_pact_has_two_to_the_k_levels_from_zero_to_the_clip(bits: int, levels: list[int]):
    found = pact(torch.linspace(-1, 5, 601), torch.tensor(3.0), bits).unique()
    torch.testing.assert_close(found, torch.tensor(levels, dtype=torch.float32))


def test_pact_takes_a_half_to_the_even_level():
    x = torch.tensor([0.5, 1.5, 2.5])
    assert pact(x, torch.tensor(3.0), 2).tolist() == [0, 2, 2]


def test_pact_quantizer_starts_high_and_counts_with_the_size_of_its_clip():
    quantizer = PactActivations(2)
    assert quantizer.clip.item() == INITIAL_CLIP == 8
    x = torch.linspace(-1, 10, 23)
    torch.testing.assert_close(quantizer(x), pact(x, torch.tensor(8.0), 2))
    assert quantizer.grid() == pytest.approx((0, 8 / 3))
    with torch.no_grad():
        quantizer.clip.neg_()
    torch.testing.assert_close(quantizer(x), pact(x, torch.tensor(8.0), 2))
    assert quantizer.grid() == pytest.approx((0, 8 / 3))


def test_pact_clip_has_a_decay_of_its_own_in_the_optimizer():
    quantizer = PactActivations(2)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "quantizer": quantizer})
    groups = make_optimizer(model, Train(epochs=1, weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(quantizer.clip)] == CLIP_DECAY == 2e-4
    assert decays[id(model["layer"].weight)] == 0.1


def test_pact_clip_that_nothing_reaches_is_drawn_down_by_its_decay_alone():
    quantizer = PactActivations(2)
    quantizer(torch.rand(5)).sum().backward()
    assert quantizer.clip.grad == 0
