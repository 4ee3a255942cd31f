import math
from functools import partial
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.errors import UnknownNameError
from kd_ray.training.losses import (
    Ensemble,
    Loss,
    distillation_loss,
    hard_loss,
    soft_loss,
    soft_targets,
)

temperatures = st.floats(0.5, 100)
seeds = st.integers(0, 2**20)


normal = partial(tiny.normal, dtype=torch.float64)


def softened(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(dim=-1)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at)[0]


def divergence(z: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL(targets || q_T), as torch has it."""
    return F.kl_div((z / temperature).log_softmax(-1), targets, reduction="none").sum(-1)


# Laws of the soft loss


@settings(deadline=None)
@given(temperatures, seeds)
def test_soft_loss_is_least_where_the_logits_are_the_teachers(temperature: float, seed: int):
    v = normal(4, 7, seed=seed)
    targets = softened(v, temperature)
    at_match = soft_loss(v, targets, temperature)
    off = soft_loss(v + normal(4, 7, seed=seed + 1), targets, temperature)
    assert (off > at_match).all()
    z = v.clone().requires_grad_()
    slope = gradient(soft_loss(z, targets, temperature).sum(), z)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


@settings(deadline=None)
@given(temperatures, seeds)
def test_soft_loss_less_the_entropy_of_the_targets_is_the_divergence(temperature: float, seed: int):
    z = normal(4, 7, seed=seed)
    targets = softened(normal(4, 7, seed=seed + 1), temperature)
    entropy = torch.special.entr(targets).sum(dim=-1)
    torch.testing.assert_close(
        soft_loss(z, targets, temperature) - entropy, divergence(z, targets, temperature)
    )


@settings(deadline=None)
@given(temperatures, st.floats(-50, 50))
def test_soft_loss_does_not_see_a_shift_of_either_logits(temperature: float, shift: float):
    z, v = normal(3, 5), normal(3, 2, 5, seed=1)
    for ensemble in ("arithmetic", "geometric"):
        plain = soft_loss(z, soft_targets(v, temperature, Ensemble(ensemble)), temperature)
        shifted_targets = soft_targets(v + shift, temperature, Ensemble(ensemble))
        torch.testing.assert_close(soft_loss(z + shift, shifted_targets, temperature), plain)


@settings(deadline=None)
@given(temperatures)
def test_soft_loss_has_its_gradient_in_closed_form(temperature: float):
    z = normal(3, 5).requires_grad_()
    targets = softened(normal(3, 5, seed=1), temperature)
    expected = (softened(z.detach(), temperature) - targets) / temperature
    torch.testing.assert_close(gradient(soft_loss(z, targets, temperature).sum(), z), expected)


def test_scaled_soft_loss_less_the_entropy_matches_centred_logits_at_high_temperature():
    z, v = normal(6, 10), normal(6, 10, seed=1)
    z, v = z - z.mean(dim=-1, keepdim=True), v - v.mean(dim=-1, keepdim=True)
    limit = (z - v).square().sum(dim=-1) / (2 * 10)
    temperature = 1e3
    targets = softened(v, temperature)
    entropy = torch.special.entr(targets).sum(dim=-1)
    found = temperature**2 * (soft_loss(z, targets, temperature) - entropy)
    torch.testing.assert_close(found, limit, rtol=5e-3, atol=0)


def test_t_squared_keeps_the_size_of_the_gradient():
    z = normal(16, 10).requires_grad_()
    v = normal(16, 10, seed=1)

    def size(temperature: float) -> float:
        loss = soft_loss(z, softened(v, temperature), temperature).sum()
        return float(gradient(loss, z).norm())

    cold, warm = size(10.0), size(40.0)
    assert cold / warm == pytest.approx(16, rel=0.1)  # 1/T^2 without the factor
    assert 10.0**2 * cold == pytest.approx(40.0**2 * warm, rel=0.1)


def test_gradients_agree_with_finite_differences():
    z = normal(3, 4).requires_grad_()
    v = normal(3, 2, 4, seed=1)
    labels = torch.tensor([0, 3, UNLABELLED])

    def total(z: Tensor) -> Tensor:
        return whole(z, labels, v, temperature=3.0, soft_weight=9.0, smoothing=0.1).total

    assert torch.autograd.gradcheck(total, (z,))


# Ensembles


@settings(deadline=None)
@given(temperatures)
def test_soft_targets_of_one_teacher_are_the_same_in_every_ensemble(temperature: float):
    v = normal(3, 1, 5)
    arithmetic = soft_targets(v, temperature)
    torch.testing.assert_close(arithmetic, soft_targets(v, temperature, Ensemble("geometric")))
    torch.testing.assert_close(arithmetic, softened(v[:, 0], temperature))


@pytest.mark.parametrize("ensemble", ["arithmetic", "geometric"])
def test_soft_targets_do_not_depend_on_the_order_of_the_teachers(ensemble: str):
    v = normal(3, 4, 5)
    shuffled = v[:, [2, 0, 3, 1]]
    found = soft_targets(shuffled, 4.0, Ensemble(ensemble))
    torch.testing.assert_close(found, soft_targets(v, 4.0, Ensemble(ensemble)))
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, dtype=torch.float64))


def test_soft_targets_are_the_mean_and_the_normalized_geometric_mean():
    p, q = softened(normal(1, 2, 5)[:, 0], 2.0), softened(normal(1, 2, 5)[:, 1], 2.0)
    v = normal(1, 2, 5)
    torch.testing.assert_close(soft_targets(v, 2.0), (p + q) / 2)
    root = (p * q).sqrt()
    torch.testing.assert_close(soft_targets(v, 2.0, Ensemble("geometric")), root / root.sum())


def test_soft_targets_of_an_unknown_ensemble_are_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'geometric'"):
        soft_targets(normal(1, 1, 2), 1.0, Ensemble("geometrical"))


# The hard loss


def test_hard_loss_is_zero_for_unlabelled_rows_only():
    z = normal(3, 4)
    found = hard_loss(z, torch.tensor([1, UNLABELLED, 2]), smoothing=0.2)
    assert found[1] == 0
    assert (found[[0, 2]] > 0).all()


@settings(deadline=None)
@given(st.floats(0, 0.9))
def test_hard_loss_with_smoothing_is_the_soft_loss_of_smoothed_labels(smoothing: float):
    z, labels = normal(3, 4), torch.tensor([0, 1, 3])
    targets = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
    torch.testing.assert_close(hard_loss(z, labels, smoothing), soft_loss(z, targets, 1.0))
    torch.testing.assert_close(
        hard_loss(z, labels, smoothing).mean(),
        F.cross_entropy(z, labels, label_smoothing=smoothing),
    )


# The objective


def whole(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, **options: Any) -> Loss:
    """The loss of a batch that is on one worker."""
    counts = {"global_rows": len(labels), "global_labelled": int((labels != UNLABELLED).sum())}
    return distillation_loss(
        logits, labels, teacher_logits, **{"hard_weight": 1.0, **counts, **options}
    )


Z, V, Y = normal(6, 5), normal(6, 2, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
T = 4.0


def test_distillation_loss_q1_is_the_cross_entropy_with_the_labels():
    loss = whole(Z, Y, None, temperature=T, soft_weight=0)
    torch.testing.assert_close(loss.total, F.cross_entropy(Z, Y))
    torch.testing.assert_close(loss.hard, F.cross_entropy(Z, Y))
    assert loss.soft == 0


@pytest.mark.parametrize("soft_weight", [1.0, T**2])
def test_distillation_loss_q2_is_the_soft_term_alone(soft_weight: float):
    loss = whole(Z, Y, V, temperature=T, hard_weight=0, soft_weight=soft_weight)
    targets = (V / T).softmax(dim=-1).mean(dim=1)
    expected = F.cross_entropy(Z / T, targets)
    torch.testing.assert_close(loss.soft, expected)
    torch.testing.assert_close(loss.total, soft_weight * expected)
    assert loss.hard == 0


@settings(deadline=None)
@given(st.floats(0.1, 3), st.floats(0.1, 30))
def test_distillation_loss_q3_is_h_times_hard_plus_c_times_soft(h: float, c: float):
    loss = whole(Z, Y, V, temperature=T, hard_weight=h, soft_weight=c)
    hard = F.cross_entropy(Z, Y)
    soft = F.cross_entropy(Z / T, (V / T).softmax(dim=-1).mean(dim=1))
    torch.testing.assert_close(loss.total, h * hard + c * soft)


def test_distillation_loss_q4_has_one_hot_labels_at_temperature_t_and_needs_no_teacher():
    loss = whole(Z, Y, None, temperature=T, soft_weight=T**2, targets="labels")
    torch.testing.assert_close(loss.soft, F.cross_entropy(Z / T, Y))
    torch.testing.assert_close(loss.total, F.cross_entropy(Z, Y) + T**2 * loss.soft)


def test_distillation_loss_without_the_teachers_logits_is_refused_unless_nothing_needs_them():
    with pytest.raises(ValueError, match="teacher logits"):
        whole(Z, Y, None, temperature=T, soft_weight=1.0)


def test_distillation_loss_smooths_the_hard_term_only():
    loss = whole(Z, Y, V, temperature=T, soft_weight=1.0, smoothing=0.1)
    torch.testing.assert_close(loss.hard, F.cross_entropy(Z, Y, label_smoothing=0.1))
    for targets in ("teacher", "labels"):
        options: dict[str, Any] = {"temperature": T, "soft_weight": 1.0, "targets": targets}
        smoothed = whole(Z, Y, V, smoothing=0.1, **options)
        torch.testing.assert_close(smoothed.soft, whole(Z, Y, V, **options).soft)


def test_distillation_loss_of_unlabelled_rows_is_in_the_soft_term_only():
    hidden = Y.clone()
    hidden[2:] = UNLABELLED
    loss = whole(Z, hidden, V, temperature=T, soft_weight=1.0)
    torch.testing.assert_close(loss.hard, F.cross_entropy(Z[:2], Y[:2]))
    torch.testing.assert_close(loss.soft, whole(Z, Y, V, temperature=T, soft_weight=1.0).soft)
    control = whole(Z, hidden, None, temperature=T, soft_weight=1.0, targets="labels")
    torch.testing.assert_close(control.soft, F.cross_entropy(Z[:2] / T, Y[:2]))


def test_distillation_loss_of_a_batch_without_labels_is_its_soft_term_with_a_zero_hard_term():
    nobody = torch.full((6,), UNLABELLED)
    loss = whole(Z, nobody, V, temperature=T, soft_weight=2.0)
    assert loss.hard == 0
    torch.testing.assert_close(loss.total, 2 * loss.soft)


@pytest.mark.parametrize("targets", ["teacher", "labels"])
@settings(deadline=None)
@given(cut=st.integers(0, 6), hidden=st.sets(st.integers(0, 5)))
def test_distillation_loss_of_workers_parts_adds_up_to_the_whole(
    targets: str, cut: int, hidden: set[int]
):
    labels = Y.clone()
    labels[sorted(hidden)] = UNLABELLED
    options: dict[str, Any] = {
        "temperature": T,
        "soft_weight": 3.0,
        "hard_weight": 0.5,
        "targets": targets,
        "smoothing": 0.1,
        "global_rows": 6,
        "global_labelled": 6 - len(hidden),
    }
    all_rows = distillation_loss(Z, labels, V, **options)
    parts = [
        distillation_loss(Z[rows], labels[rows], V[rows], **options)
        for rows in (slice(0, cut), slice(cut, 6))
    ]
    for term in ("total", "hard", "soft"):
        added = sum(getattr(part, term) for part in parts)
        torch.testing.assert_close(added, getattr(all_rows, term))


def test_distillation_loss_of_two_zero_weights_is_zero_and_still_has_a_gradient():
    z = Z.clone().requires_grad_()
    loss = whole(z, Y, None, temperature=T, soft_weight=0.0, hard_weight=0.0)
    assert loss.total == 0
    assert (gradient(loss.total, z) == 0).all()


def test_distillation_loss_of_bf16_logits_is_computed_in_float32_under_autocast():
    z, v = Z.bfloat16(), V.half()
    expected = whole(z.float(), Y, v.float(), temperature=T, soft_weight=T**2)
    with torch.autocast("cpu", torch.bfloat16):
        found = whole(z, Y, v, temperature=T, soft_weight=T**2)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected.total)


def test_distillation_loss_of_k_even_logits_is_log_k():
    loss = whole(torch.zeros(6, 5), Y, torch.zeros(6, 1, 5), temperature=T, soft_weight=1.0)
    assert float(loss.hard) == pytest.approx(math.log(5))
    assert float(loss.soft) == pytest.approx(math.log(5))
