import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal
from torch import Tensor

from kd_ray.errors import ConfigError
from kd_ray.quant.dorefa import dorefa_weights
from kd_ray.quant.lsq import lsq, lsq_gradient_scale, lsq_initial_step, lsq_levels, scaled_gradient
from kd_ray.quant.quantizers import Lsq

few = settings(max_examples=25)
seeds = st.integers(0, 2**20)
steps = st.sampled_from([0.125, 0.5, 0.7, 2.0])
KINDS = {
    "unsigned": {"signed": False},
    "signed": {"signed": True},
    "halves": {"signed": True, "zero": False},
}
grids = st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 8)).filter(
    lambda grid: grid != ("signed", 1)
)
Grid = tuple[str, int]


def around(grid: Grid, step: float, seed: int, rows: int = 64) -> Tensor:
    """Values inside the clip and up to as far outside."""
    low, high = lsq_levels(grid[1], **KINDS[grid[0]])
    share = 2 * torch.rand(rows, generator=torch.Generator().manual_seed(seed)) - 0.5
    return step * (low + share * (high - low))


def slopes(v: Tensor, step: float, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The value and, element by element, the gradients of v and of the step."""
    v = v.clone().requires_grad_()
    s = torch.full_like(v, step).requires_grad_()
    pairs = zip(v, s, strict=True)
    value = torch.stack([lsq(x, one, lsq_levels(grid[1], **KINDS[grid[0]])) for x, one in pairs])
    return value.detach(), *torch.autograd.grad(value.sum(), (v, s))


# Laws


@few
@given(grids, steps, seeds)
def test_lsq_lies_on_the_grid_at_the_nearest_level(grid: Grid, step: float, seed: int):
    low, high = lsq_levels(grid[1], **KINDS[grid[0]])
    v = around(grid, step, seed)
    found = lsq(v, torch.tensor(step), lsq_levels(grid[1], **KINDS[grid[0]]))
    level = found / step - low
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
    assert (level.round() >= 0).all()
    assert (level.round() <= 2 ** grid[1] - 1).all()
    clipped = v.clamp(step * low, step * high)
    assert ((found - clipped).abs() <= step * 0.5001).all()


@few
@given(grids, steps, seeds)
def test_lsq_is_idempotent_and_never_falls(grid: Grid, step: float, seed: int):
    s, bits, kind = torch.tensor(step), grid[1], KINDS[grid[0]]
    once = lsq(around(grid, step, seed).sort().values, s, lsq_levels(bits, **kind))
    torch.testing.assert_close(lsq(once, s, lsq_levels(bits, **kind)), once)
    assert (once.diff() >= 0).all()


@few
@given(grids, steps, seeds, st.sampled_from([0.25, 2.0, 64.0]))
def test_lsq_of_values_and_step_that_grow_together_grows_with_them(
    grid: Grid, step: float, seed: int, factor: float
):
    v, s, bits, kind = around(grid, step, seed), torch.tensor(step), grid[1], KINDS[grid[0]]
    grown = lsq(factor * v, factor * s, lsq_levels(bits, **kind))
    torch.testing.assert_close(grown, factor * lsq(v, s, lsq_levels(bits, **kind)))


@few
@given(grids, steps, seeds)
def test_lsq_has_the_gradients_of_the_paper(grid: Grid, step: float, seed: int):
    low, high = lsq_levels(grid[1], **KINDS[grid[0]])
    v, cotangent = around(grid, step, seed), normal(64, seed=seed)
    x, s = v.clone().requires_grad_(), torch.tensor(step, requires_grad=True)
    value = lsq(x, s, lsq_levels(grid[1], **KINDS[grid[0]]))
    of_v, of_step = torch.autograd.grad(value, (x, s), cotangent)
    place = v / step
    inside = (place > low) & (place < high)
    torch.testing.assert_close(of_v, cotangent * inside)
    level = value.detach() / step
    expected = torch.where(inside, level - place, level)
    torch.testing.assert_close(of_step, (cotangent * expected).sum(), rtol=1e-4, atol=1e-3)


@few
@given(grids.filter(lambda grid: grid[0] != "halves"), steps, seeds)
def test_lsq_is_torchs_learnable_fake_quantization(grid: Grid, step: float, seed: int):
    low, high = lsq_levels(grid[1], **KINDS[grid[0]])
    v, cotangent = around(grid, step, seed), normal(64, seed=seed)
    # Torch's clip ends half a level further out; ties depend on how it divides.
    place = v / step
    edge = ((place < low) & (place > low - 0.51)) | ((place > high) & (place < high + 0.51))
    tie = (place.frac().abs() - 0.5).abs() < 1e-3
    keep = ~edge & ~tie
    v, cotangent = v[keep], cotangent[keep]
    ours, theirs = v.clone().requires_grad_(), v.clone().requires_grad_()
    s, t = torch.tensor(step, requires_grad=True), torch.tensor([step], requires_grad=True)
    found = lsq(ours, s, lsq_levels(grid[1], **KINDS[grid[0]]))
    expected = torch._fake_quantize_learnable_per_tensor_affine(
        theirs, t, torch.zeros(1), int(low), int(high), 1.0
    )
    torch.testing.assert_close(found, expected)
    of_v, of_step = torch.autograd.grad(found, (ours, s), cotangent)
    of_theirs, of_t = torch.autograd.grad(expected, (theirs, t), cotangent)
    torch.testing.assert_close(of_v, of_theirs)
    torch.testing.assert_close(of_step, of_t.squeeze(), rtol=1e-4, atol=1e-3)


# By hand


@pytest.mark.parametrize(
    ("bits", "kind", "levels"),
    [
        (1, "unsigned", (0, 1)),
        (2, "unsigned", (0, 3)),
        (8, "unsigned", (0, 255)),
        (2, "signed", (-2, 1)),
        (8, "signed", (-128, 127)),
        (1, "halves", (-0.5, 0.5)),
        (2, "halves", (-1.5, 1.5)),
        (8, "halves", (-127.5, 127.5)),
    ],
)
def test_lsq_levels_are_two_to_the_k(bits: int, kind: str, levels: tuple[float, float]):
    assert lsq_levels(bits, **KINDS[kind]) == levels
    v = torch.linspace(1.2 * levels[0] - 1, 1.2 * levels[1] + 1, 4001)
    found = lsq(v, torch.tensor(1.0), lsq_levels(bits, **KINDS[kind])).unique()
    assert found.tolist() == [levels[0] + place for place in range(2**bits)]


def test_lsq_of_two_signed_bits_is_that_computed_by_hand():
    v = torch.tensor([-2.0, -0.6, -0.2, 0.0, 0.2, 0.3, 2.0])
    value, of_v, of_step = slopes(v, 0.5, ("signed", 2))
    # v / s = -4 -1.2 -.4 0 .4 .6 4; levels -2 -1 0 0 0 1 1
    torch.testing.assert_close(value, torch.tensor([-1, -0.5, 0, 0, 0, 0.5, 0.5]))
    assert of_v.tolist() == [0, 1, 1, 1, 1, 1, 0]
    torch.testing.assert_close(of_step, torch.tensor([-2, 0.2, 0.4, 0, -0.4, 0.4, 1]))


def test_lsq_of_two_unsigned_bits_is_that_computed_by_hand():
    v = torch.tensor([-1.0, 0.0, 0.4, 1.2, 3.0, 7.0])
    value, of_v, of_step = slopes(v, 1.0, ("unsigned", 2))
    assert value.tolist() == [0, 0, 0, 1, 3, 3]
    assert of_v.tolist() == [0, 0, 1, 1, 0, 0]
    torch.testing.assert_close(of_step, torch.tensor([0, 0, -0.4, -0.2, 3, 3]))


def test_lsq_of_two_bits_without_zero_is_that_computed_by_hand():
    v = torch.tensor([-9.0, -1.2, -0.2, 0.2, 1.2, 9.0])
    value, of_v, of_step = slopes(v, 1.0, ("halves", 2))
    assert value.tolist() == [-1.5, -1.5, -0.5, 0.5, 1.5, 1.5]
    assert of_v.tolist() == [0, 1, 1, 1, 1, 0]
    torch.testing.assert_close(of_step, torch.tensor([-1.5, -0.3, -0.3, 0.3, 0.3, 1.5]))


def test_lsq_takes_a_half_to_the_even_level_and_zero_to_zero_where_it_is_one():
    s = torch.tensor(2.0)
    v = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 5.0])
    assert lsq(v, s, lsq_levels(3, signed=True)).tolist() == [-4, 0, 0, 0, 4, 4]
    assert (
        float(lsq(torch.tensor(0.0), s, lsq_levels(1, signed=True, zero=False))) == 1
    )  # sign(0) = +1


def test_lsq_of_one_signed_bit_starts_as_dorefas():
    v = normal(40)
    step = lsq_initial_step(v, lsq_levels(1, signed=True, zero=False))
    torch.testing.assert_close(
        lsq(v, step, lsq_levels(1, signed=True, zero=False)), dorefa_weights(v, 1)
    )


def test_lsq_signed_with_zero_refuses_one_bit_with_the_rule_and_the_choices():
    with pytest.raises(ConfigError) as caught:
        lsq(normal(4), torch.tensor(1.0), lsq_levels(1, signed=True))
    message = str(caught.value)
    assert "signed levels with a zero need at least 2 bits, but got 1 bit" in message
    assert '"without-zero" ({-1, +1}) or more bits' in message


# The step


@pytest.mark.parametrize(
    ("kind", "bits", "above"),
    [
        ("unsigned", 1, 1),
        ("unsigned", 2, 3),
        ("signed", 2, 1),
        ("signed", 4, 7),
        ("halves", 1, 1),
        ("halves", 2, 2),
        ("halves", 4, 8),
    ],
)
def test_lsq_step_starts_and_learns_by_the_number_of_levels_above_zero(
    kind: str, bits: int, above: int
):
    v = torch.tensor([-1.0, 2.0, 0.0, 3.0])  # mean|v| = 3/2
    step = lsq_initial_step(v, lsq_levels(bits, **KINDS[kind]))
    torch.testing.assert_close(step, torch.tensor(3 / above**0.5))
    assert lsq_gradient_scale(25, lsq_levels(bits, **KINDS[kind])) == pytest.approx(
        0.2 / above**0.5
    )


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 7.0])
def test_scaled_gradient_keeps_the_value_to_the_last_bit(scale: float):
    x = normal(20).requires_grad_()
    found = scaled_gradient(x, scale)
    assert torch.equal(found, x)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], torch.full((20,), scale))


def test_lsq_step_of_weights_counts_all_weights_and_that_of_inputs_one_samples():
    v = normal(4, 5, 5)
    for per_row, numbers in ((False, 100), (True, 25)):
        quantizer = Lsq(2, signed=True, zero=True, per_row=per_row)
        s = torch.tensor(1.0, requires_grad=True)
        (raw,) = torch.autograd.grad(lsq(v, s, lsq_levels(2, signed=True)).sum(), s)
        (found,) = torch.autograd.grad(quantizer(v).sum(), quantizer.step)
        torch.testing.assert_close(found, raw / numbers**0.5)


def test_lsq_quantizer_counts_with_the_size_of_its_step_and_starts_at_the_papers():
    quantizer, v = Lsq(3, signed=True, zero=False, per_row=False), normal(40)
    quantizer.calibrate_(v)
    torch.testing.assert_close(quantizer.step.detach(), v.abs().mean())  # 2 / sqrt(4)
    low, step = quantizer.grid()
    assert (low, step) == pytest.approx((-3.5 * float(v.abs().mean()), float(v.abs().mean())))
    before = quantizer(v)
    with torch.no_grad():
        quantizer.step.neg_()
    assert torch.equal(quantizer(v), before)
    assert quantizer.grid() == (low, step)


def test_lsq_quantizer_of_nothing_but_zeros_stays_finite():
    quantizer = Lsq(2, signed=False, zero=True, per_row=True)
    quantizer.calibrate_(torch.zeros(2, 3))
    found = quantizer(torch.zeros(2, 3))
    assert torch.equal(found, torch.zeros(2, 3))
    assert torch.autograd.grad(found.sum(), quantizer.step)[0] == 0
