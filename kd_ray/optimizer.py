"""The optimizer of a recipe, and the two knobs that a schedule turns before each step."""

from collections.abc import Callable

import torch
from torch import nn

from kd_ray.config import Train


def make_optimizer(model: nn.Module, options: Train) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW of all parameters; rates and momenta are set by the schedule each step."""
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(
            model.parameters(),
            lr=options.lr,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
            fused=True,
        ),
        "adam": lambda: torch.optim.Adam(
            model.parameters(),
            lr=options.lr,
            betas=(options.momentum, 0.999),
            weight_decay=options.weight_decay,
            fused=True,
        ),
        "adamw": lambda: torch.optim.AdamW(
            model.parameters(),
            lr=options.lr,
            betas=(options.momentum, 0.999),
            weight_decay=options.weight_decay,
            fused=True,
        ),
    }
    return kinds[options.optimizer]()


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
