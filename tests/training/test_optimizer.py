"""Tests of steps that list but once what they turn."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from kd_ray.config import Train
from kd_ray.training.optimizer import SteadySteps, make_optimizer, set_knobs, take_step


@pytest.mark.parametrize(
    ("optimizer", "momenta"),
    [
        ("adam", [0.9, 0.8, 0.9, 0.9]),
        ("adamw", [0.9, 0.8, 0.9, 0.9]),
        ("sgd", [0.9, 0.9, 0.0, 0.5]),
        ("sgd", [0.0, 0.0, 0.9, 0.9]),
    ],
)
@pytest.mark.parametrize("is_restored", [False, True])
def test_steady_steps_change_weights_as_the_optimizers_own_do_to_the_last_bit(
    optimizer: str, momenta: list[float], is_restored: bool
) -> None:
    table = {"optimizer": optimizer, "lr": 0.1, "momentum": momenta[0], "weight_decay": 0.01}
    options = Train.model_validate({**table, "nesterov": momenta[0] > 0})
    own = nn.Linear(5, 3)
    model = deepcopy(own)
    theirs, ours = make_optimizer(own, options), make_optimizer(model, options)
    steady = SteadySteps(ours)
    for step, momentum in enumerate(momenta * 2):
        for name, weight in own.named_parameters():
            # A weight that a pass does not use has no gradient.
            is_unused = (step, name) in [(2, "bias"), (3, "weight")]
            weight.grad = None if is_unused else gradient(step, weight)
            model.get_parameter(name).grad = weight.grad
        for one in (theirs, ours):
            set_knobs(one, 0.1 / (step + 1), momentum)
        take_step(theirs)
        steady()
        for name, weight in own.named_parameters():
            assert torch.equal(weight, model.get_parameter(name)), (step, name)
        if is_restored and step == 4:
            ours.load_state_dict(alphabetical(ours.state_dict()))
            steady = SteadySteps(ours)


def gradient(step: int, weight: nn.Parameter) -> torch.Tensor:
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))


def alphabetical(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint has it, whose names are in their own order."""
    kept = {number: dict(sorted(of_one.items())) for number, of_one in state["state"].items()}
    return {**state, "state": kept}
