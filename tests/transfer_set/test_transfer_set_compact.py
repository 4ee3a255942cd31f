"""Compact logits: what a basis promises of codes, of rebuilt logits and of what they cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.transfer_set.compact import as_tensors, from_tensors
from kd_ray.transfer_set.divergence import TEMPERATURES, Divergence, divergence, summed_up
from kd_ray.transfer_set.fit_basis import SHARES, fit_basis

sizes = st.tuples(st.integers(1, 3), st.integers(32, 70), st.integers(2, 90))
dtypes = st.sampled_from(sorted(SHARES))


def drawn(rows: int, classes: int, features: int, members: int = 1, seed: int = 0) -> Tensor:
    """Logits `(rows, M, K)` of drawn features, a twentieth of them far out, and one last layer."""
    layer = torch.randn(members, features, classes, generator=torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, members, features, generator=draw)
    inputs *= 1 + 3 * (torch.rand(rows, 1, 1, generator=draw) < 0.05)
    return torch.einsum("nmf,mfk->nmk", inputs, layer) * 3 / features**0.5 - 2


@settings(max_examples=25)
@given(sizes, dtypes)
def test_a_code_takes_at_most_its_share_of_float16_and_says_how_much(
    size: tuple[int, int, int], dtype: str
) -> None:
    members, classes, features = size
    logits = drawn(90, classes, features, members)
    basis = fit_basis(logits, dtype)
    codes, costs = basis.encode(logits)
    assert codes.shape == (90, basis.row_bytes)
    assert basis.row_bytes <= members * (2 * classes // SHARES[dtype])
    assert costs.shape == (90, members, len(TEMPERATURES))


@settings(max_examples=25)
@given(sizes, dtypes)
def test_rebuilt_logits_are_of_the_code_of_their_row_and_of_no_other(
    size: tuple[int, int, int], dtype: str
) -> None:
    members, classes, features = size
    basis = fit_basis(drawn(200, classes, features, members), dtype)
    logits = drawn(50, classes, features, members, seed=2)
    rebuilt = basis.decode(basis.encode(logits)[0])
    assert basis.is_code_of(rebuilt, logits).all()
    assert basis.is_code_of(rebuilt, logits * (1 + 1e-5)).all()
    assert not basis.is_code_of(rebuilt, logits.roll(1, dims=0)).any()


def test_codes_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    logits = drawn(1500, 40, 12)
    basis = fit_basis(logits, "compact")
    codes, costs = basis.encode(logits)
    halves = [basis.encode(part) for part in logits.split(700)]
    rebuilt = torch.cat([basis.decode(codes) for codes, _ in halves])
    assert basis.is_code_of(rebuilt, logits).all()
    assert torch.allclose(rebuilt, basis.decode(codes), atol=1e-2)
    assert torch.allclose(costs, torch.cat([c for _, c in halves]), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(("dtype", "limit"), [("compact", 1e-5), ("compact-tenth", 2e-3)])
def test_logits_of_few_features_cost_next_to_nothing_on_rows_that_nothing_was_fitted_to(
    dtype: str, limit: float
) -> None:
    basis = fit_basis(drawn(1000, 200, 24), dtype)
    _, costs = basis.encode(drawn(500, 200, 24, seed=9))
    assert float(costs.mean(dim=0).max()) < limit


def test_a_constant_added_to_all_logits_is_kept() -> None:
    logits = drawn(400, 40, 8) + torch.linspace(-50, 50, 400)[:, None, None]
    basis = fit_basis(logits, "compact")
    rebuilt = basis.decode(basis.encode(logits)[0])
    assert float((rebuilt - logits).abs().max()) < 0.5


def test_logits_that_never_change_have_a_code_of_no_bits() -> None:
    logits = torch.arange(40.0).expand(20, 1, 40)
    basis = fit_basis(logits, "compact")
    codes, costs = basis.encode(logits)
    assert torch.equal(basis.decode(codes), logits)
    assert float(costs.max()) == 0


def test_a_basis_read_back_codes_alike() -> None:
    logits = drawn(100, 40, 9, members=2)
    basis = fit_basis(logits, "compact")
    again = from_tensors(as_tensors(basis))
    assert (again.encode(logits)[0] == basis.encode(logits)[0]).all()


@given(st.floats(-40, 40), st.integers(0, 5))
def test_divergence_is_that_of_the_formula_and_nothing_for_shifted_logits(
    shift: float, seed: int
) -> None:
    true = drawn(4, 30, 5, seed=seed)
    assert float(divergence(true, true + shift).max()) < 1e-5
    other = drawn(4, 30, 5, seed=seed + 10)
    for at, temperature in enumerate(TEMPERATURES):
        p, q = ((x.double() / temperature).softmax(-1) for x in (true, other))
        expected = (p * (p / q).log()).sum(-1)
        assert torch.allclose(divergence(true, other)[..., at], expected, rtol=1e-3, atol=1e-6)


def test_summed_up_weighs_files_by_their_rows() -> None:
    def of(mean: float, largest: float) -> list[Divergence]:
        return [Divergence(temperature=t, mean=mean, largest=largest) for t in TEMPERATURES]

    whole = summed_up([(30, of(1.0, 4.0)), (10, of(2.0, 3.0))])
    assert [(each.mean, each.largest) for each in whole] == [(1.25, 4.0)] * 3
