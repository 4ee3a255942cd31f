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
    """Takes steps as `take_step` does, and lists but once what does not change between them.

    To list it takes longer than to change the weights of a small model. From its first step on, an
    optimizer's parameters, those that have gradients and its state must stay the same tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups: list[tuple[dict[str, Any], list[nn.Parameter], list[list[Tensor]]]] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Takes the next."""
        if not self._groups:
            take_step(self._optimizer)
            if isinstance(self._optimizer, torch.optim.Adam):
                listed = map(self._listed, self._optimizer.param_groups)
                self._groups = [group for group in listed if group[1]]
        else:
            for group, parameters, (steps, means, squares) in self._groups:
                torch._foreach_add_(steps, 1)
                decoupled = group["decoupled_weight_decay"]
                adam: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
                gradients = [parameter.grad for parameter in parameters]
                beta1, beta2 = group["betas"]
                knobs = {name: group[name] for name in ("lr", "weight_decay", "eps")}
                fixed = {"amsgrad": False, "maximize": False}
                moments: tuple[list[Tensor], ...] = (means, squares, [], steps)
                adam(parameters, gradients, *moments, beta1=beta1, beta2=beta2, **knobs, **fixed)

    def _listed(self, group: dict[str, Any]) -> Any:
        turned = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self._optimizer.state[parameter] for parameter in turned]
        names = ("step", "exp_avg", "exp_avg_sq")
        return group, turned, [[state[name] for state in states] for name in names]


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
