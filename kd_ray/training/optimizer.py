"""The optimizer of a recipe, and the two knobs that a schedule turns before each step."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.config import Train

DISABLED = "__dynamo_disable"
"""Where torch keeps what it calls instead of such a method; without it, it makes one, slowly."""


def make_optimizer(model: nn.Module, options: Train) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW of all parameters; rates and momenta are set by the schedule each step.

    A parameter that has an attribute `weight_decay` keeps that instead of the recipe's.
    """
    _spare_compiler()
    decays: dict[float, list[nn.Parameter]] = {options.weight_decay: []}
    for parameter in model.parameters():
        own = getattr(parameter, "weight_decay", options.weight_decay)
        decays.setdefault(own, []).append(parameter)
    groups = [{"params": some, "weight_decay": decay} for decay, some in decays.items() if some]
    if options.optimizer == "sgd":
        momentum, nesterov = options.momentum, options.nesterov
        return torch.optim.SGD(
            groups, lr=options.lr, momentum=momentum, nesterov=nesterov, fused=True
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=options.lr, betas=(options.momentum, 0.999), fused=True)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Changes the parameters by their gradients, as `optimizer.step()` does, hooks aside.

    That imports torch's compiler, only to be told that nothing is compiled, which takes as long as
    importing torch.
    """
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


class SteadySteps:
    """Takes steps as `take_step` does, and lists but once what is the same as in the step before.

    To list it takes longer than to change the weights of a small model. Meanwhile the tensors of
    the optimizer's state must stay what they are.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        is_adam = isinstance(optimizer, torch.optim.Adam)
        self._turn = _turn_adam if is_adam else _turn_sgd
        self._kept = ("step", "exp_avg", "exp_avg_sq") if is_adam else ("momentum_buffer",)
        self._is_fused = all(group["fused"] for group in optimizer.param_groups)
        self._known: list[tuple[int, ...]] | None = None
        self._states: list[list[list[Any]]] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Takes the next."""
        groups = self._optimizer.param_groups
        turned = [[one for one in group["params"] if one.grad is not None] for group in groups]
        # SGD has a state only while it has momentum.
        known = [
            (bool(group.get("momentum")), *map(id, some))
            for group, some in zip(groups, turned, strict=True)
        ]
        if known != self._known or not self._is_fused:
            take_step(self._optimizer)
            self._known, self._states = known, [self._state(some) for some in turned]
            return
        for group, some, state in zip(groups, turned, self._states, strict=True):
            if some:
                self._turn(group, some, [one.grad for one in some], *state)

    def _state(self, parameters: list[nn.Parameter]) -> list[list[Any]]:
        """What the optimizer keeps, of all parameters; SGD without momentum keeps None."""
        states = [self._optimizer.state.get(one, {}) for one in parameters]
        return [[state.get(name) for state in states] for name in self._kept]


Gradients = list[Tensor | None]


def _turn_adam(
    group: dict[str, Any],
    parameters: list[nn.Parameter],
    gradients: Gradients,
    steps: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
) -> None:
    torch._foreach_add_(steps, 1)
    adam: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    beta1, beta2 = group["betas"]
    knobs = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    state: tuple[list[Tensor], ...] = (means, squares, [], steps)
    adam(parameters, gradients, *state, beta1=beta1, beta2=beta2, **knobs)


def _turn_sgd(
    group: dict[str, Any],
    parameters: list[nn.Parameter],
    gradients: Gradients,
    momenta: list[Any],
) -> None:
    sgd: Any = torch._fused_sgd_
    names = ("lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize")
    knobs = {name: group[name] for name in names}
    moving = momenta if group["momentum"] else []
    sgd(parameters, gradients, moving, is_first_step=False, **knobs)


def _spare_compiler() -> None:
    """Has torch not import its compiler for methods of optimizers that this must not compile."""
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, DISABLED):
            setattr(method, DISABLED, method)


def set_knobs(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Sets the next step's learning rate, and its momentum (Adam's beta1) unless that is None."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
