from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.errors import ConfigError, UnknownNameError
from kd_ray.training.schedule import SCHEDULES, Knobs, make_schedule, schedule_problems

EXERCISE = {"milestones": [15, 40], "factors": [0.1, 0.05]}
OPTIONS: dict[str, dict[str, Any]] = {"step": EXERCISE}


def knobs(name: str, total: int, **options: Any) -> list[Knobs]:
    schedule = make_schedule(name, options)
    return [schedule(step, 10, total) for step in range(total)]


def scales(name: str, total: int, **options: Any) -> list[float]:
    return [knob.lr_scale for knob in knobs(name, total, **options)]


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None)
@given(total=st.integers(1, 300))
def test_every_schedule_stays_between_zero_and_the_peak_in_runs_of_any_length(
    name: str, total: int
):
    for knob in knobs(name, total, **OPTIONS.get(name, {})):
        assert 0 < knob.lr_scale <= 1
        assert knob.momentum is None or 0.85 <= knob.momentum <= 0.95


@pytest.mark.parametrize("name", ["constant", "cosine"])
@settings(deadline=None)
@given(warmup=st.floats(0, 0.99), total=st.integers(1, 300))
def test_warm_up_rises_to_the_peak_without_a_wasted_first_step(
    name: str, warmup: float, total: int
):
    found = scales(name, total, warmup=warmup)
    warm = int(warmup * total)
    assert found[0] > 0
    assert all(low < high for low, high in pairwise(found[:warm]))
    assert all(low >= high for low, high in pairwise(found[warm:]))


def test_constant_is_one_and_leaves_the_momentum():
    assert set(knobs("constant", 20)) == {Knobs(1.0, None)}


def test_constant_with_warm_up_is_a_straight_line_first():
    assert scales("constant", 8, warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_cosine_starts_at_the_peak_is_halfway_in_the_middle_and_ends_at_final():
    schedule = make_schedule("cosine", {"final": 0.2})
    found = [schedule(step, 10, 100).lr_scale for step in (0, 50, 100)]
    assert found == pytest.approx([1.0, 0.6, 0.2])


def test_cosine_after_a_warm_up_starts_at_the_peak():
    found = scales("cosine", 100, warmup=0.2)
    assert found[19] == found[20] == 1
    assert found[60] == pytest.approx(0.5)


@pytest.mark.parametrize("total", [10, 100, 237])
@pytest.mark.parametrize(
    ("options", "torchs"),
    [
        ({}, {}),
        (
            {
                "rise": 0.45,
                "initial": 0.1,
                "final": 0.001,
                "low_momentum": 0.8,
                "high_momentum": 0.9,
            },
            {
                "pct_start": 0.45,
                "div_factor": 10,
                "final_div_factor": 100,
                "base_momentum": 0.8,
                "max_momentum": 0.9,
            },
        ),
    ],
)
def test_one_cycle_is_torchs_own(total: int, options: dict[str, Any], torchs: dict[str, Any]):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    torchs = {"max_lr": 0.5, "total_steps": total, **torchs}
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, **torchs)
    for knob in knobs("one-cycle", total, **options):
        group = optimizer.param_groups[0]
        assert 0.5 * knob.lr_scale == pytest.approx(group["lr"], rel=1e-9)
        assert knob.momentum == pytest.approx(group["momentum"], rel=1e-9)
        optimizer.step()
        if theirs.last_epoch < total - 1:
            theirs.step()


def test_one_cycle_of_a_single_step_is_at_the_peak():
    assert knobs("one-cycle", 1) == [Knobs(1.0, 0.85)]


def test_step_falls_at_the_exercises_epochs_whatever_the_steps_in_an_epoch():
    schedule = make_schedule("step", EXERCISE)
    for per_epoch in (1, 7, 100):
        lrs = [0.01 * schedule(step, per_epoch, 60 * per_epoch).lr_scale for step in range(60 * 7)]
        for step, lr in enumerate(lrs):
            epoch = step // per_epoch
            expected = 0.01 if epoch < 15 else 0.001 if epoch < 40 else 0.0005
            assert lr == pytest.approx(expected)


BAD = [
    ("constant", {"warmup": 1.0}, ".warmup: input should be less than 1, but got 1.0"),
    ("constant", {"warmup": float("nan")}, ".warmup: input should be a finite number, but got nan"),
    (
        "cosine",
        {"warmup": -0.1},
        ".warmup: input should be greater than or equal to 0, but got -0.1",
    ),
    ("cosine", {"final": 1.5}, ".final: input should be less than or equal to 1, but got 1.5"),
    ("one-cycle", {"rise": 0.0}, ".rise: input should be greater than 0, but got 0.0"),
    ("one-cycle", {"initial": 0.0}, ".initial: input should be greater than 0"),
    ("one-cycle", {"final": -1.0}, ".final: input should be greater than or equal to 0"),
    (
        "one-cycle",
        {"low_momentum": 0.96},
        ": low_momentum must be at most high_momentum, but got 0.96",
    ),
    (
        "step",
        {"milestones": [3, 3], "factors": [0.1, 0.2]},
        ": milestones must increase, but got [3",
    ),
    (
        "step",
        {"milestones": [0, 3], "factors": [0.1, 0.2]},
        ".milestones.0: input should be greater",
    ),
    ("step", {"milestones": [1, 3], "factors": [0.1]}, ": milestones and factors must be as many"),
    ("step", {"milestones": [], "factors": []}, "at least one"),
    ("step", {"milestones": [1], "factors": [0.0]}, ".factors.0: input should be greater than 0"),
    (
        "step",
        {"milestones": [1], "factors": [float("inf")]},
        ".factors.0: input should be a finite",
    ),
]


@pytest.mark.parametrize(("name", "options", "rule"), BAD)
def test_make_schedule_refuses_values_out_of_range_with_the_rule_and_the_value(
    name: str, options: dict[str, Any], rule: str
):
    with pytest.raises(ConfigError) as caught:
        make_schedule(name, options)
    assert rule in str(caught.value)
    assert str(caught.value).startswith(f"schedule '{name}'")
    (problem,) = schedule_problems("train.schedule", name, options)
    assert problem.startswith("train.schedule")
    assert rule in problem


def test_make_schedule_refuses_unknown_names_and_options():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        make_schedule("cosin", {})
    with pytest.raises(
        ConfigError, match=r"schedule 'cosine'.warm_up: unknown key; did you mean 'warmup'"
    ):
        make_schedule("cosine", {"warm_up": 0.1})


def test_schedule_problems_are_none_for_good_schedules():
    for name in SCHEDULES:
        assert schedule_problems("train.schedule", name, OPTIONS.get(name, {})) == []


def test_schedule_problems_are_all_told_at_once():
    problems = schedule_problems("train.schedule", "step", {"milestones": ["a"], "factor": [1.0]})
    assert len(problems) == 3
    assert problems[0].startswith("train.schedule.factor: unknown key; did you mean 'factors'")
    assert "train.schedule.milestones.0" in problems[1]
    assert problems[2] == "train.schedule.factors: this key is required; add it"
    (unknown,) = schedule_problems("train.schedule", "onecycle", {})
    assert unknown.startswith("train.schedule.name: unknown schedule 'onecycle'; did you mean")
