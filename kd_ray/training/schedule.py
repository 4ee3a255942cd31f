"""Schedules: the learning rate's scale, and the momentum where it moves, as functions of the step.

A schedule is pure, so a resumed run continues it without any state of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from kd_ray.catalog import call_problems, pick
from kd_ray.config.table import Count, PartialShare, Share
from kd_ray.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Knobs:
    """What a schedule sets before a step: a factor of the recipe's learning rate, and a momentum.

    The latter is SGD's momentum or Adam's beta1; None leaves the recipe's.
    """

    lr_scale: float
    momentum: float | None = None


Schedule = Callable[[int, int, int], Knobs]
"""(step from 0, steps per epoch, steps of the whole run) -> Knobs."""


def constant(*, warmup: PartialShare = 0.0) -> Schedule:
    """The peak learning rate throughout.

    Args:
        warmup: share of the run in which the rate first rises in a straight line.
    """

    def schedule(step: int, steps_per_epoch: int, total_steps: int) -> Knobs:
        return Knobs(_rise(step, warmup * total_steps))

    return schedule


def cosine(*, warmup: PartialShare = 0.0, final: Share = 0.0) -> Schedule:
    """Half a cosine from the peak to `final`, which is reached when the last step is over.

    Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts.

    Args:
        warmup: share of the run in which the rate first rises in a straight line.
        final: scale at the end of the run.
    """

    def schedule(step: int, steps_per_epoch: int, total_steps: int) -> Knobs:
        start = warmup * total_steps
        if step < start:
            return Knobs(_rise(step, start))
        return Knobs(_half_cosine(1.0, final, (step - start) / (total_steps - start)))

    return schedule


def one_cycle(
    *,
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    initial: Annotated[float, Field(gt=0, le=1)] = 0.04,
    final: Share = 4e-6,
    low_momentum: PartialShare = 0.85,
    high_momentum: PartialShare = 0.95,
) -> Schedule:
    """Up to the peak and far down again, the momentum the other way round.

    Smith and Topin 2017 (Super-Convergence), with half cosines for the two phases. The defaults
    give the values of `torch.optim.lr_scheduler.OneCycleLR`.

    Args:
        rise: share of the run until the peak.
        initial: scale at the first step.
        final: scale at the last step.
        low_momentum: momentum at the peak.
        high_momentum: momentum at the first and the last step.

    Raises:
        ConfigError: the low momentum is above the high one.
    """
    if low_momentum > high_momentum:
        raise ConfigError(
            f"low_momentum must be at most high_momentum, but got {low_momentum}, {high_momentum}"
        )

    def schedule(step: int, steps_per_epoch: int, total_steps: int) -> Knobs:
        peak = max(rise * total_steps - 1, 0.0)  # a very short run starts at the peak
        if step <= peak:
            done = step / peak if peak > 0 else 1.0
            momentum = _half_cosine(high_momentum, low_momentum, done)
            return Knobs(_half_cosine(initial, 1.0, done), momentum)
        done = (step - peak) / (total_steps - 1 - peak)
        momentum = _half_cosine(low_momentum, high_momentum, done)
        return Knobs(_half_cosine(1.0, final, done), momentum)

    return schedule


def step(*, milestones: list[Count], factors: list[Annotated[float, Field(gt=0)]]) -> Schedule:
    """A staircase: after `milestones[i]` epochs the scale becomes `factors[i]`.

    >>> stairs = step(milestones=[15, 40], factors=[0.1, 0.05])
    >>> [stairs(epoch, 1, 60).lr_scale for epoch in (0, 14, 15, 39, 40)]
    [1.0, 1.0, 0.1, 0.1, 0.05]

    Args:
        milestones: finished epochs, increasing.
        factors: scales relative to the peak, as many as milestones.

    Raises:
        ConfigError: there is none, they are not as many, or the milestones do not increase.
    """
    if not len(milestones) == len(factors) > 0:
        raise ConfigError(
            "milestones and factors must be as many, and at least one, but got milestones = "
            f"{milestones} and factors = {factors}"
        )
    if any(low >= high for low, high in pairwise(milestones)):
        raise ConfigError(f"milestones must increase, but got {milestones}")
    stairs = list(zip(milestones, factors, strict=True))

    def schedule(step: int, steps_per_epoch: int, total_steps: int) -> Knobs:
        epoch = step // steps_per_epoch
        scales = [factor for milestone, factor in stairs if epoch >= milestone]
        return Knobs(scales[-1] if scales else 1.0)

    return schedule


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "step": step,
}


def make_schedule(name: str, options: Mapping[str, Any]) -> Schedule:
    """The schedule called `name` with its options.

    Raises:
        UnknownNameError: no such schedule.
        ConfigError: an option is unknown, missing, of a wrong type or out of range.
    """
    build = pick("schedule", SCHEDULES, name)
    if problems := schedule_problems(f"schedule '{name}'", name, options):
        raise ConfigError("; ".join(problems))
    return build(**options)


def schedule_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the schedule at a dotted place of a recipe, one sentence each."""
    try:
        build = pick("schedule", SCHEDULES, name)
        problems = call_problems(where, build, options)
        if not problems:
            build(**options)
    except UnknownNameError as error:
        return [f"{where}.name: {error}"]
    except ConfigError as error:
        return [f"{where}: {error}"]
    return problems


def _rise(step: int, until: float) -> float:
    # Counted from 1: a first step with a learning rate of 0 would be wasted.
    return min(1.0, (step + 1) / until) if until > 0 else 1.0


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
