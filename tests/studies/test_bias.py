from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import generator
from torch import Tensor

from kd_ray.errors import TrainingError
from kd_ray.studies.paper.bias import TOLERANCE, bias_by_labels, bias_for_mass


def class_mass(logits: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mean predicted mass of each class at T = 1, `(K,)` float64."""
    exact = logits.double() if bias is None else logits.double() + bias
    return exact.softmax(dim=1).mean(dim=0)


def random_logits(rows: int = 400, classes: int = 5, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=generator(seed))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    first=st.floats(0.01, 0.45),
    second=st.floats(0.01, 0.45),
    offset=st.floats(-12, 12),
)
def test_corrected_mean_mass_is_the_share_however_far_off_it_was(
    seed: int, first: float, second: float, offset: float
) -> None:
    logits = random_logits(seed=seed)
    logits[:, 3] += offset
    bias = bias_for_mass(logits, [3, 1], [first, second])
    mass = class_mass(logits, bias)
    assert float(mass[3]) == pytest.approx(first, abs=2 * TOLERANCE)
    assert float(mass[1]) == pytest.approx(second, abs=2 * TOLERANCE)
    assert bias[[0, 2, 4]].abs().sum() == 0


def test_a_class_that_was_hardly_ever_predicted_is_found_again() -> None:
    logits = random_logits()
    logits[:, 2] -= 40
    assert float(class_mass(logits)[2]) < 1e-12
    bias = bias_for_mass(logits, [2], [0.2])
    assert float(class_mass(logits, bias)[2]) == pytest.approx(0.2, abs=2 * TOLERANCE)


@pytest.mark.parametrize("shift", [-7.5, 3.5])
def test_a_known_shift_of_synthetic_logits_is_recovered(shift: float) -> None:
    logits = random_logits(rows=2000)
    mass = class_mass(logits)
    shifted = logits.clone()
    shifted[:, 4] -= shift
    bias = bias_for_mass(shifted, [4], [float(mass[4])])
    assert float(bias[4]) == pytest.approx(shift, abs=1e-4)


def test_mass_grows_with_the_bias_of_its_class_and_falls_with_that_of_another() -> None:
    logits = random_logits()
    masses = [class_mass(logits, torch.tensor([b, 0.0, 0.0, 0.0, 0.0])) for b in (-1.0, 0.0, 1.0)]
    for low, high in pairwise(masses):
        assert low[0] < high[0]
        assert (low[1:] > high[1:]).all()
    assert all(float(mass.sum()) == pytest.approx(1) for mass in masses)


def test_shares_that_are_met_already_need_no_bias() -> None:
    logits = random_logits()
    shares = class_mass(logits)[[0, 2]].tolist()
    assert bias_for_mass(logits, [0, 2], shares).abs().max() < 1e-5


@pytest.mark.parametrize("shares", [[0.0], [1.0], [0.5, 0.5], [-0.1]])
def test_shares_that_no_bias_gives_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="together below 1"):
        bias_for_mass(random_logits(), list(range(len(shares))), shares)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = random_logits()
    logits[7, 1] = torch.nan
    with pytest.raises((TrainingError, ValueError)):
        bias_for_mass(logits, [1], [0.2])


def errors(logits: Tensor, labels: Tensor, classes: list[int], bias: float) -> int:
    moved = logits.double().clone()
    moved[:, classes] += bias
    return int((moved.argmax(dim=1) != labels).sum())


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), offset=st.floats(-6, 6), other=st.floats(-20, 20))
def test_no_other_bias_makes_fewer_errors_than_the_one_by_labels(
    seed: int, offset: float, other: float
) -> None:
    logits = random_logits(rows=60, seed=seed)
    labels = logits.argmax(dim=1)
    logits = logits + random_logits(rows=60, seed=seed + 1, scale=1.0)
    logits[:, [0, 2]] += offset
    best = bias_by_labels(logits, labels, [0, 2])
    assert errors(logits, labels, [0, 2], best) <= errors(logits, labels, [0, 2], other)
    assert errors(logits, labels, [0, 2], best) <= errors(logits, labels, [0, 2], 0.0)


def test_bias_by_labels_undoes_a_shift() -> None:
    logits = random_logits(rows=3000)
    labels = logits.argmax(dim=1)
    logits[:, 1] -= 3.5
    best = bias_by_labels(logits, labels, [1])
    assert best == pytest.approx(3.5, abs=0.05)
    assert errors(logits, labels, [1], best) == 0
