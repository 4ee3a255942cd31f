"""The optimizer of a recipe, and the two knobs that a schedule turns before each step."""

import inspect

import torch
from torch import nn

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
