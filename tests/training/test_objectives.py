import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import kd_ray
from kd_ray.batch import UNLABELLED
from kd_ray.errors import ConfigError
from kd_ray.own_code import allow
from kd_ray.pipeline import open_recipe, run
from kd_ray.training.losses import Ensemble, soft_loss, soft_targets
from kd_ray.training.objectives import (
    SOFT_TERMS,
    check_meaning,
    dist,
    dkd,
    joint_logits,
    soft_term,
    soft_term_problems,
    ttm,
    wttm,
)

EVERY: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SOFT_TERMS),
    *(("standardized", {"of": name}) for name in SOFT_TERMS),
]
ONE = Ensemble()
seeds = st.integers(0, 2**20)
temperatures = st.floats(0.5, 20)
normal = partial(tiny.normal, dtype=torch.float64)


def labels(rows: int, classes: int) -> Tensor:
    return torch.arange(rows) * 3 % classes


def softened(logits: Tensor, T: float) -> Tensor:
    return (logits / T).softmax(dim=-1)


def divergence(z: Tensor, targets: Tensor, T: float) -> Tensor:
    return F.kl_div((z / T).log_softmax(-1), targets, reduction="none").sum(-1)


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("members", [1, 3])
def test_soft_terms_have_the_gradient_of_finite_differences(
    name: str, options: dict[str, Any], members: int
):
    z, v, y = normal(5, 4).requires_grad_(), normal(5, members, 4, seed=1), labels(5, 4)
    term = soft_term(name, options, T=3.0, ensemble=ONE)
    assert term(z, v, y).shape == (5,)
    assert torch.autograd.gradcheck(lambda z: term(z, v, y), z)


@pytest.mark.parametrize(("name", "options"), [each for each in EVERY if "ttm" not in f"{each}"])
def test_soft_terms_but_those_without_t_of_the_student_are_least_at_the_teachers_logits(
    name: str, options: dict[str, Any]
):
    v, y = normal(6, 5, seed=2), labels(6, 5)
    z = v.clone().requires_grad_()
    term = soft_term(name, options, T=2.0, ensemble=ONE)
    at_match = term(z, v.unsqueeze(1), y)
    (slope,) = torch.autograd.grad(at_match.sum(), z)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-7, rtol=0)
    off = term(z + normal(6, 5, seed=3), v.unsqueeze(1), y)
    assert off.mean() > at_match.mean()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_soft_terms_of_a_student_whose_logits_are_all_equal_have_a_finite_gradient(
    name: str, options: dict[str, Any]
):
    z = torch.zeros(4, 3, requires_grad=True)  # a head that begins with zeros
    v = 100 * tiny.normal(4, 1, 3)  # and a teacher that is very sure
    soft_term(name, options, T=1.0, ensemble=ONE)(z, v, labels(4, 3)).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@given(temperatures, seeds)
def test_dkd_whose_beta_is_the_mass_off_the_label_is_the_divergence_of_plain_distillation(
    T: float, seed: int
):
    z, v, y = normal(6, 5, seed=seed), normal(6, 5, seed=seed + 1), labels(6, 5)
    off = 1 - softened(v, T)[torch.arange(6), y]
    parts = dkd(z, v, y, T, alpha=1.0, beta=0.0) + off * dkd(z, v, y, T, alpha=0.0, beta=1.0)
    torch.testing.assert_close(parts, divergence(z, softened(v, T), T))


def test_dist_is_one_less_the_correlations_that_numpy_finds():
    z, targets = normal(7, 4), softened(normal(7, 4, seed=1), 2.0)
    q, p = softened(z, 2.0).numpy(), targets.numpy()
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    classes = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    found = dist(z, targets, 2.0, lambda values: values, beta=2.0, gamma=3.0)
    expected = 2 * np.array(rows) + 3 * np.mean(classes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@given(temperatures, seeds)
def test_ttm_is_least_where_the_student_is_the_softened_teacher_at_t_of_1(T: float, seed: int):
    v = normal(4, 6, seed=seed)
    targets = softened(v, T)
    assert (ttm(v / T, targets).abs() < 1e-9).all()
    power = softened(v, 1.0).pow(1 / T).sum(dim=-1)
    z = normal(4, 6, seed=seed + 1)
    torch.testing.assert_close(wttm(z, v, targets, T), power * ttm(z, targets))


@given(seeds, st.floats(0.1, 10), st.floats(-10, 10))
def test_standardized_terms_see_neither_scale_nor_shift_of_either_logits(
    seed: int, scale: float, shift: float
):
    z, v, y = normal(4, 5, seed=seed), normal(4, 1, 5, seed=seed + 1), labels(4, 5)
    for of in SOFT_TERMS:
        term = soft_term("standardized", {"of": of}, T=2.0, ensemble=ONE)
        moved = term(scale * z + shift, v, y), term(z, scale * v + shift, y)
        for value in moved:
            torch.testing.assert_close(value, term(z, v, y))


@given(temperatures, seeds, st.sampled_from(["arithmetic", "geometric"]))
def test_joint_logits_have_the_soft_targets_of_the_ensemble(T: float, seed: int, mean: str):
    v = normal(3, 3, 4, seed=seed)
    for ensemble in (Ensemble(mean), Ensemble(mean, (0.5, 0.0, 0.5))):
        expected = soft_targets(v, T, ensemble)
        torch.testing.assert_close(softened(joint_logits(v, T, ensemble), T), expected)
    assert torch.equal(joint_logits(v[:, :1], T, ONE), v[:, 0])


def test_hinton_of_the_catalogue_is_the_soft_loss():
    z, v = normal(4, 5), normal(4, 2, 5, seed=1)
    term = soft_term("hinton", {}, T=4.0, ensemble=ONE)
    assert torch.equal(term(z, v, labels(4, 5)), soft_loss(z, soft_targets(v, 4.0), 4.0))


OWN = """
def mse(z, v, *, scale: float = 1.0):
    return scale * (z - v).square().mean(dim=-1)

def mean(z, v):
    return (z - v).square().mean()

def broken(z):
    return z + undefined

number = 7
"""
BEFORE_THE_OBJECTIVE = """
name = "mine"
data = { name = "digits", fraction = 0.2 }
teacher = { model = { name = "mlp", hidden = [8] }, train = { epochs = 1 } }
student = { model = { name = "mlp", hidden = [4] }, baselines = [] }
train = { epochs = 1 }
"""


@pytest.fixture
def own_losses(no_own_code: None, tmp_path: Path) -> None:
    """Losses of a user's own, in a module beside a recipe that was opened."""
    (tmp_path / "own_losses.py").write_text(OWN)
    allow(["own_losses:mse"], tmp_path)


@pytest.mark.usefixtures("own_losses")
def test_own_losses_stand_beside_those_of_the_catalogue():
    z, v, y = torch.randn(3, 5), torch.randn(3, 1, 5), torch.zeros(3, dtype=torch.int64)
    options = {"scale": 2.0}
    assert soft_term_problems("objective", "own_losses:mse", options) == []
    loss = soft_term("own_losses:mse", options, T=4.0, ensemble=Ensemble("arithmetic"))
    torch.testing.assert_close(loss(z, v, y), 2 * (z - v[:, 0]).square().mean(dim=1))
    over = {"of": "own_losses:mse"}
    assert soft_term_problems("objective", "standardized", over) == []
    alike = soft_term("standardized", over, T=4.0, ensemble=Ensemble("arithmetic"))
    torch.testing.assert_close(alike(3 * v[:, 0] + 1, v, y), torch.zeros(3), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("no_own_code")
def test_the_guides_own_loss_trains_a_student(tmp_path: Path):
    guide = (Path(kd_ray.__file__).parent / "config" / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```python\n(# my_losses.*?)```\n\n```toml\n(.*?)```", guide, re.DOTALL)
    assert shown is not None
    (tmp_path / "my_losses.py").write_text(shown[1])
    (tmp_path / "mine.toml").write_text(BEFORE_THE_OBJECTIVE + shown[2])
    summary = run(tmp_path / "mine.toml", runs=tmp_path / "runs", local=True)
    assert summary.row("distilled").metrics["accuracy"].mean > 0


@pytest.mark.usefixtures("own_losses")
@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("own_losses:mse", {"skale": 1.0}, "objective.options.skale: unknown key; did you mean"),
        ("own_losses:none", {}, "objective.name: own_losses:none: .*must define none"),
        ("own_losses:number", {}, "objective.name: own_losses:number: must be a function"),
        ("other_losses:mse", {}, "objective.name: 'other_losses:mse': is somebody's own code"),
    ],
)
def test_own_losses_that_are_none_are_refused_by_name(
    name: str, options: dict[str, Any], sentence: str
):
    (problem,) = soft_term_problems("objective", name, options)
    assert re.match(sentence, problem)


@pytest.mark.usefixtures("own_losses")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own_losses:mean", r"one loss for each row, \[3\], but answered with \[\]"),
        ("own_losses:broken", r"own_losses\.py, line 9: NameError"),
    ],
)
def test_own_losses_that_go_wrong_at_work_end_in_a_sentence(name: str, sentence: str):
    loss = soft_term(name, {}, T=4.0, ensemble=Ensemble("arithmetic"))
    with pytest.raises(ConfigError, match=sentence):
        loss(torch.randn(3, 5), torch.randn(3, 1, 5), torch.zeros(3, dtype=torch.int64))


def test_soft_terms_that_mean_nothing_on_the_rows_are_refused():
    y = labels(6, 3)
    check_meaning("dkd", {}, y, classes=3)
    check_meaning("dist", {}, y, classes=2)
    for name, options in (("dkd", {}), ("standardized", {})):
        with pytest.raises(ConfigError, match="at least 3 classes"):
            check_meaning(name, options, y, classes=2)
    y[2] = UNLABELLED
    check_meaning("ttm", {}, y, classes=3)
    for name, options in (("dkd", {}), ("standardized", {"of": "dkd"})):
        with pytest.raises(ConfigError, match="needs the label of every row"):
            check_meaning(name, options, y, classes=3)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (["objective.name='hintn'"], "objective.name: unknown objective 'hintn'; did you mean"),
        (["objective.name='dkd'", "objective.options={ bta = 2 }"], "objective.options.bta"),
        (["objective.name='dkd'", "objective.options={ beta = 'x' }"], "objective.options.beta"),
        (["objective.options={ beta = 2 }"], "objective.options.beta: unknown key"),
        (["objective.name='dkd'", "objective.options={ z = 2 }"], "objective.options.z"),
        (
            ["objective.name='standardized'", "objective.options={ of = 'standardized' }"],
            "objective.options.of: unknown objective 'standardized'",
        ),
        (["objective.name='dkd'", "objective.targets='labels'"], "leaves the teacher out"),
    ],
)
def test_objectives_of_a_recipe_are_checked_with_the_recipe(sets: list[str], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        open_recipe("quickstart", sets)
