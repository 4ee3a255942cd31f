import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.quant.rounding import fake_quantize, straight_through

few = settings(max_examples=25)
bit_counts = st.integers(1, 8)
scales = st.sampled_from([1.0, 0.1, 4.0])
vectors = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20).map(torch.tensor)


def slope(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), at)[0]


# Rounding


@few
@given(vectors, vectors)
def test_straight_through_is_the_value_to_the_last_bit_with_the_gradient_of_x(x: Tensor, v: Tensor):
    x, v = x[: len(v)].requires_grad_(), v[: len(x)].requires_grad_()
    found = straight_through(x, v)
    assert torch.equal(found, v)
    of_x, of_v = torch.autograd.grad(found.sum(), (x, v), allow_unused=True)
    assert torch.equal(of_x, torch.ones_like(x))
    assert of_v is None


# Unit quantization: laws


@few
@given(vectors, bit_counts, scales, st.booleans())
def test_fake_quantize_lies_on_the_grid_at_the_nearest_level(
    x: Tensor, bits: int, scale: float, half_up: bool
):
    n = 2**bits - 1
    found = fake_quantize(x, bits, scale=scale, half_up=half_up)
    levels = found.double() * n
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    clipped = (x.double() * scale).clamp(0, 1)
    assert ((found - clipped).abs() <= 0.5 / n + 1e-6).all()


@few
@given(vectors, bit_counts, st.booleans())
def test_fake_quantize_is_idempotent(x: Tensor, bits: int, half_up: bool):
    once = fake_quantize(x, bits, half_up=half_up)
    assert torch.equal(fake_quantize(once, bits, half_up=half_up), once)


@few
@given(vectors, bit_counts, st.booleans())
def test_fake_quantize_never_falls(x: Tensor, bits: int, half_up: bool):
    found = fake_quantize(x.sort().values, bits, half_up=half_up)
    assert (found.diff() >= 0).all()


@few
@given(vectors, bit_counts, st.booleans())
def test_fake_quantize_has_gradient_one_inside_the_clip_and_zero_elsewhere(
    x: Tensor, bits: int, half_up: bool
):
    x = torch.cat([x, torch.tensor([0.0, 1.0])]).requires_grad_()
    inside = ((x > 0) & (x < 1)).float()
    assert torch.equal(slope(fake_quantize(x, bits, half_up=half_up), x), inside)


@few
@given(st.integers(0, 2**20), bit_counts)
def test_fake_quantize_is_torchs_where_the_two_agree_what_the_clip_is(seed: int, bits: int):
    n = 2**bits - 1
    x = 2 * torch.rand(64, generator=torch.Generator().manual_seed(seed)) - 0.5
    # Torch lets the gradient pass up to half a level outside, and multiplies by 1 / scale at ties.
    outside = ((x < 0) & (x > -0.51 / n)) | ((x > 1) & (x < 1 + 0.51 / n))
    tie = ((x * n).frac().abs() - 0.5).abs() < 1e-3
    x = x[~outside & ~tie].requires_grad_()
    theirs = torch.fake_quantize_per_tensor_affine(x, 1 / n, 0, 0, n)
    ours = fake_quantize(x, bits)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(slope(ours, x), slope(theirs, x))


# Unit quantization: hand-computed


@pytest.mark.parametrize(
    ("bits", "levels"),
    [(1, [0, 1]), (2, [0, 1 / 3, 2 / 3, 1]), (3, [i / 7 for i in range(8)])],
)
def test_fake_quantize_has_two_to_the_k_levels(bits: int, levels: list[float]):
    found = fake_quantize(torch.linspace(-1, 2, 997), bits).unique()
    torch.testing.assert_close(found, torch.tensor(levels, dtype=torch.float32))


@pytest.mark.parametrize("bits", range(1, 9))
def test_fake_quantize_keeps_zero_and_one(bits: int):
    ends = torch.tensor([0.0, 1.0])
    for half_up in (False, True):
        assert torch.equal(fake_quantize(ends, bits, half_up=half_up), ends)


@pytest.mark.parametrize(
    ("bits", "place", "even", "up"),
    [(1, 0.5, 0, 1), (2, 1.5, 2, 2), (3, 2.5, 2, 3), (3, 3.5, 4, 4)],
)
def test_fake_quantize_takes_a_half_to_the_even_level_or_upwards(
    bits: int, place: float, even: int, up: int
):
    n = 2**bits - 1
    x = torch.tensor([place / n], dtype=torch.float64)
    assert float(x * n) == place
    assert float(fake_quantize(x, bits) * n) == pytest.approx(even)
    assert float(fake_quantize(x, bits, half_up=True) * n) == pytest.approx(up)


def test_fake_quantize_with_a_scale_has_the_scale_as_its_gradient():
    x = torch.tensor([-1.0, 0.0, 0.1, 5.5, 9.9, 10.0, 11.0], requires_grad=True)
    found = fake_quantize(x, 1, scale=0.1)
    assert found.tolist() == [0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(slope(found, x), torch.tensor([0, 0, 0.1, 0.1, 0.1, 0, 0]))


def test_fake_quantize_leaves_its_argument_as_it_was():
    x = torch.tensor([-1.0, 0.4, 0.6, 2.0])
    fake_quantize(x, 2)
    assert x._version == 0
