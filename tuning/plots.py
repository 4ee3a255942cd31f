"""Plots of a sweep over T and c as inline SVG, and how plots of a sweep show a metric.

A plot that has nothing to show is an empty string.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from kd_ray.config import SoftWeight
from kd_ray.report.plots import drawing, stand_in
from tuning.outcome import Sweep, TrialRow, figure, metric_name
from tuning.space import BITS, SOFT_WEIGHT, TEMPERATURE
from tuning.trial import COSTS

if TYPE_CHECKING:
    from matplotlib.axis import Axis

BEST, OTHER, STOPPED = "distilled", "teacher", "labels"
COLOURS, MARKERS = (BEST, STOPPED, "smoothing", "softened-labels", OTHER), "osDPX*"
"""Looks of groups; no two of the first thirty are alike."""

REACH = 3
"""An axis ends at so many times the distance from the best value to the third quarter of them."""


def soft_share(sweep: Sweep, trial: TrialRow) -> float:
    """Weight c / T^2 of a trial, whichever of the two was searched; 0 without a soft term."""
    objective = sweep.recipe.objective
    weight = SoftWeight.parse(trial.settings.get(SOFT_WEIGHT, objective.soft_weight))
    temperature = float(trial.settings.get(TEMPERATURE, objective.temperature))
    return weight.factor / (1.0 if weight.times_temperature_squared else temperature**2)


def temperature_plot(sweep: Sweep) -> str:
    """The first metric over T, where T was searched; trials that have no soft term have no T."""
    if TEMPERATURE not in sweep.options.space:
        return ""
    points = [(trial, value) for trial, value in finished_trials(sweep) if soft_share(sweep, trial)]
    title = "Over the temperature"
    return _over(sweep, points, lambda t: float(t.settings[TEMPERATURE]), title, "temperature T")


def weight_plot(sweep: Sweep) -> str:
    """The first metric over c / T^2; trials without a soft term stand at its left end."""
    if SOFT_WEIGHT not in sweep.options.space:
        return ""
    title = "Over the weight of the soft term"
    return _over(sweep, finished_trials(sweep), lambda t: soft_share(sweep, t), title, "c / T²")


def _over(
    sweep: Sweep,
    points: Sequence[tuple[TrialRow, float]],
    at: Callable[[TrialRow], float],
    title: str,
    name: str,
) -> str:
    """Trials over a logarithmic axis, which has no 0: those there stand a step left of all."""
    from matplotlib.ticker import LogLocator

    if not points:
        return ""
    metric = sweep.options.metrics[0]
    keys = [key for key in BITS if key in sweep.options.space]

    def bits(trial: TrialRow) -> tuple[Any, ...]:
        return tuple(trial.settings[key] for key in keys)

    # Of all trials, so that a combination looks the same in every plot.
    kinds = sorted({bits(trial) for trial in sweep.trials})
    positive = sorted(x for trial, _ in points if (x := at(trial)) > 0)
    zero = positive[0] / 3 if positive else 1.0
    with drawing(title, 8.8, 3.2) as plot:
        (axes,) = plot.axes
        axes.set_xscale("log")
        for number, kind in enumerate(kinds):
            mine = [(at(trial) or zero, value) for trial, value in points if bits(trial) == kind]
            if mine:
                axes.plot(
                    *zip(*mine, strict=True),
                    MARKERS[number % len(MARKERS)],
                    color=stand_in(COLOURS[number % len(COLOURS)]),
                    alpha=0.85,
                    label=" ".join(f"{BITS[key]} {b}" for key, b in zip(keys, kind, strict=True)),
                )
        axes.set(title=title, xlabel=name, ylabel=metric_name(metric))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x > 2 * zero else "")
        axes.set_xticks([zero] if any(at(t) == 0 for t, _ in points) else [], minor=True)
        axes.xaxis.remove_overlapping_locs = False
        axes.xaxis.set_minor_formatter(lambda *_: "no soft\nterm")
        axes.set_ylim(worth_seeing([value for _, value in points], is_rising(sweep)))
        show_values(axes.yaxis, metric)
        axes.grid(axis="y")
        if keys:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    return plot.svg


def finished_trials(sweep: Sweep) -> list[tuple[TrialRow, float]]:
    """Trials with their first metric."""
    pairs = [(t, t.values[0]) for t in sweep.trials if t.state == "finished"]
    return [(trial, value) for trial, value in pairs if isfinite(value)]


def is_rising(sweep: Sweep) -> bool:
    """Whether more of the first metric is better."""
    return sweep.options.directions[0] == "maximize"


def worth_seeing(values: Sequence[float], rising: bool) -> tuple[float, float]:
    """Limits of an axis that shows most values, and all of the good ones.

    >>> [round(end, 3) for end in worth_seeing([0.1, 0.91, 0.92, 0.92, 0.93], rising=True)]
    [0.866, 0.934]
    """
    sign = 1 if rising else -1
    scores = sorted((sign * value for value in values), reverse=True)
    best, usual = scores[0], scores[3 * (len(scores) - 1) // 4]
    worst = max(scores[-1], best - REACH * (best - usual)) if usual < best else scores[-1]
    margin = 0.06 * (best - worst) or 0.01
    ends = sign * (best + margin), sign * (worst - margin)
    return min(ends), max(ends)


def show_values(axis: "Axis", metric: str) -> None:
    """Numbers at ticks as a person reads a cost."""
    if metric in COSTS:
        axis.set_major_formatter(lambda value, _: figure(metric, value))
