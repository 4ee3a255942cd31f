"""Plots of a sweep as inline SVG: its trials in their order, and over what was searched.

A plot that has nothing to show is an empty string.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import isfinite, log
from typing import TYPE_CHECKING, Any

from kd_ray.config import SoftWeight
from kd_ray.report.plots import INK, LONG, STYLE, stand_in, svg_of
from tuning.axes import (
    COSTS,
    Point,
    count_whole,
    draw_dots,
    finished_svg,
    make_logarithmic,
    metric_name,
    name_places,
    new_figure,
    show_values,
    worth_seeing,
)
from tuning.outcome import Sweep, TrialRow
from tuning.space import NO_SOFT_TERM, SOFT_WEIGHT, TEMPERATURE, distributions, names_shown

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BITS = {"student.quantizer.weight_bits": "W", "student.quantizer.activation_bits": "A"}
BEST, POOR, QUIET = "distilled", "labels", "teacher"
COLOURS, MARKERS = (BEST, POOR, "smoothing", "softened-labels", QUIET), "osDPX*"
"""Of groups; together, no two of the first thirty look alike."""

ENOUGH = 4
"""Trials from which importances say something."""

IMPORTANCE_NOTE = (
    "How much of the variance of the {metric} over the space each parameter explains, by a random "
    "forest's fANOVA (Hutter et al. 2014) of {trials} finished trials{which}. With few trials, or "
    "a sampler that soon keeps to good ones, it is a hint and no more."
)


def soft_share(sweep: Sweep, trial: TrialRow) -> float:
    """Weight c / T^2 of a trial, whichever of the two was searched; 0 without a soft term."""
    objective = sweep.recipe.objective
    weight = SoftWeight.parse(trial.settings.get(SOFT_WEIGHT, objective.soft_weight))
    temperature = float(trial.settings.get(TEMPERATURE, objective.temperature))
    return weight.factor / (1.0 if weight.times_temperature_squared else temperature**2)


def history_plot(sweep: Sweep) -> str:
    """The first metric of every trial in their order, and the best so far."""
    import matplotlib

    metric, rising = _first_metric(sweep)
    finished = [(trial.number, value) for trial, value in _finished(sweep)]
    stopped = [
        (trial.number, history[-1][1])
        for trial in sweep.trials
        if trial.state == "stopped" and (history := _history(trial))
    ]
    if not finished and not stopped:
        return ""
    limits = worth_seeing([value for _, value in finished or stopped], rising)
    title = "Trials in their order"
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(title)
        best = list(accumulate((value for _, value in finished), max if rising else min))
        if best:
            numbers = [number for number, _ in finished] + [sweep.trials[-1].number]
            steps = [*best, best[-1]]
            shade = stand_in(INK)
            axes.step(numbers, steps, where="post", color=shade, linewidth=1, label="best so far")
        draw_dots(axes, stopped, limits, QUIET, label="stopped early", fillstyle="none")
        draw_dots(axes, finished, limits, BEST, label="finished")
        count_whole(axes.xaxis)
        return finished_svg(figure, title, "trial", metric)


def learning_plot(sweep: Sweep) -> str:
    """The first metric over the epochs of every trial, the best one in front."""
    import matplotlib

    metric, rising = _first_metric(sweep)
    best = next((trial.number for trial in sweep.front), None)
    lines = [(trial, history) for trial in sweep.trials if (history := _history(trial))]
    if not lines:
        return ""
    title = "Learning curves"
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(title)
        named: set[str] = set()
        for trial, history in sorted(lines, key=lambda line: line[0].number == best):
            name, kind, width, alpha = "stopped, failed or running", POOR, 0.9, 0.6
            if trial.state == "finished":
                name, kind = "finished", QUIET
            if trial.number == best:
                name, kind, width, alpha = f"trial {trial.number}, the best", BEST, 2.2, 1.0
            axes.plot(
                *zip(*history, strict=True),
                color=stand_in(kind),
                linewidth=width,
                alpha=alpha,
                marker="o" if len(history) == 1 else "",
                markersize=4,
                label="_" if name in named else name,
            )
            named.add(name)
        longest = max(history[-1][0] for _, history in lines)
        if longest >= LONG:  # the end is what one compares
            late = [value for _, history in lines for e, value in history if e > longest / 10]
            axes.set_ylim(worth_seeing(late, rising))
        count_whole(axes.xaxis)
        return finished_svg(figure, title, "epoch", metric)


def importances(sweep: Sweep) -> tuple[dict[str, float], str]:
    """How much each parameter matters for the first metric.

    Returns:
        Name -> share, the largest first, and a sentence on what they are of; or nothing, and a
        sentence that says why.
    """
    import optuna

    names = [name for name in distributions(sweep.options) if name != NO_SOFT_TERM]
    finished = [t for t in sweep.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    # Trials without a soft term have neither T nor c, and fANOVA takes whole points only.
    whole = [trial for trial in finished if all(name in trial.params for name in names)]
    known = [trial for trial in whole if isfinite(trial.values[0])]
    which = " with a soft term" if len(whole) < len(finished) else ""
    missing = "Importances of parameters are left out: "
    if len(names) == 1:
        return {}, f"{missing}only one was searched."
    if len(known) < ENOUGH:
        needed = f"{ENOUGH} finished trials{which} are needed"
        return {}, f"{missing}{needed}, and there are {len(known)}."
    if len({trial.values[0] for trial in known}) == 1:
        return {}, f"{missing}all trials are equally good."
    study = optuna.create_study(direction=sweep.options.directions[0])
    study.add_trials([_straightened(trial, names) for trial in known])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    except (RuntimeError, ValueError) as error:
        return {}, f"{missing}{error}"
    titles = {key: name for name, key in names_shown(sweep.options).items()}
    note = IMPORTANCE_NOTE.format(
        metric=metric_name(sweep.options.metrics[0]),
        trials=len(known),
        which=which,
    )
    return {titles[name]: share for name, share in found.items()}, note


def _straightened(trial: "FrozenTrial", names: list[str]) -> "FrozenTrial":
    """A trial with logarithms for parameters that were searched over the logarithm.

    Optuna's fANOVA would take their values as they are, so that nearly all of the space would lie
    in the last decade.
    """
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    parameters = {name: trial.params[name] for name in names}
    spaces = {name: trial.distributions[name] for name in names}
    for name, space in spaces.items():
        if isinstance(space, FloatDistribution | IntDistribution) and space.log:
            parameters[name] = log(parameters[name])
            spaces[name] = FloatDistribution(log(space.low), log(space.high))
    return create_trial(params=parameters, distributions=spaces, value=trial.values[0])


def importance_plot(shares: Mapping[str, float]) -> str:
    """Bars of how much of a metric's variance each parameter explains.

    Args:
        shares: what tables call a parameter -> its share; the first one at the top.
    """
    import matplotlib

    if not shares:
        return ""
    title = "Importance of parameters"
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(title, height=0.9 + 0.32 * len(shares))
        bars = axes.barh(list(shares), list(shares.values()), height=0.6, color=stand_in(BEST))
        axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares.values()], padding=4)
        axes.set_ylim(len(shares) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        axes.margins(x=0.1)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set_xlabel("share of the explained variance")
        return svg_of(figure, title)


def temperature_plot(sweep: Sweep) -> str:
    """The first metric over T, where T was searched; trials that have no soft term have no T."""
    if TEMPERATURE not in sweep.options.space:
        return ""
    points = [(trial, value) for trial, value in _finished(sweep) if soft_share(sweep, trial)]

    def temperature(trial: TrialRow) -> float:
        return float(trial.settings[TEMPERATURE])

    return _over(sweep, points, temperature, "Over the temperature", "temperature T")


def weight_plot(sweep: Sweep) -> str:
    """The first metric over c / T^2; trials without a soft term stand in a column of their own."""
    if SOFT_WEIGHT not in sweep.options.space:
        return ""

    def share(trial: TrialRow) -> float:
        return soft_share(sweep, trial)

    return _over(sweep, _finished(sweep), share, "Over the weight of the soft term", "c / T²")


def _over(
    sweep: Sweep,
    points: Sequence[tuple[TrialRow, float]],
    at: Callable[[TrialRow], float],
    title: str,
    name: str,
) -> str:
    """Trials over a logarithmic axis, which has no 0: those there stand in a column beside it."""
    import matplotlib

    if not points:
        return ""
    metric, rising = _first_metric(sweep)
    limits = worth_seeing([value for _, value in points], rising)
    keys = [key for key in BITS if key in sweep.options.space]

    def bits(trial: TrialRow) -> tuple[Any, ...]:
        return tuple(trial.settings[key] for key in keys)

    # Of all trials, so that a combination looks the same in every plot.
    kinds = sorted({bits(trial) for trial in sweep.trials})
    zero = any(at(trial) == 0 for trial, _ in points)
    positive = any(at(trial) > 0 for trial, _ in points)
    with matplotlib.rc_context(STYLE):
        figure, row = new_figure(title, widths=[1] * zero + [8] * positive)
        for number, kind in enumerate(kinds):
            mine = [(at(trial), value) for trial, value in points if bits(trial) == kind]
            beside = (number + 0.5) / len(kinds) - 0.5  # for no kind to hide another
            label = " ".join(f"{BITS[key]} {b}" for key, b in zip(keys, kind, strict=True)) or "_"
            look = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            zeros = [(beside, value) for x, value in mine if x == 0]
            draw_dots(row[0], zeros, limits, *look, label=label)
            draw_dots(row[-1], [(x, v) for x, v in mine if x > 0], limits, *look, label=label)
        if zero:
            row[0].set_xticks([0], ["no soft\nterm"])
            row[0].set_xlim(-0.7, 0.7)
        if positive:
            make_logarithmic(row[-1])
        if zero and positive:
            row[-1].tick_params(axis="y", length=0)
        return finished_svg(figure, title, name if positive else "", metric)


def front_plot(sweep: Sweep) -> str:
    """The first two of several metrics against each other; a line joins those that none beats."""
    import matplotlib

    options = sweep.options
    finished = [trial for trial, _ in _finished(sweep) if all(map(isfinite, trial.values[:2]))]
    if len(options.metrics) < 2 or not finished:
        return ""
    # A cost lies on the horizontal axis; where both or none are, the second metric does.
    x, y = (0, 1) if options.metrics[0] in COSTS and options.metrics[1] not in COSTS else (1, 0)
    places = {trial.number: (trial.values[x], trial.values[y]) for trial in finished}
    best = {trial.number for trial in sweep.front}
    front = sorted((place, str(number)) for number, place in places.items() if number in best)
    others = [place for number, place in places.items() if number not in best]
    low_is_good = options.directions[x] == "minimize"
    title = "Pareto front"
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(title, height=3.8)
        axes.margins(0.08, 0.12)
        draw_dots(axes, others, None, QUIET, label="other trials", fillstyle="none")
        draw_dots(axes, [place for place, _ in front], None, BEST, label="on the front")
        if len(options.metrics) == 2:  # of more, the front is no line in this plane
            steps = list(zip(*(place for place, _ in front), strict=True))
            shade = stand_in(BEST)
            axes.step(*steps, where="post" if low_is_good else "pre", color=shade, linewidth=1)
        if options.metrics[x] in COSTS and all(place[0] > 0 for place in places.values()):
            make_logarithmic(axes)
        show_values(axes.xaxis, options.metrics[x])
        # Names stand where no trial can be: it would beat one of the front.
        high_is_good = options.directions[y] == "maximize"
        name_places(figure, axes, front, left=low_is_good, above=high_is_good)
        return finished_svg(figure, title, metric_name(options.metrics[x]), options.metrics[y])


def _first_metric(sweep: Sweep) -> tuple[str, bool]:
    """Its name, and whether more is better."""
    return sweep.options.metrics[0], sweep.options.directions[0] == "maximize"


def _finished(sweep: Sweep) -> list[tuple[TrialRow, float]]:
    """Trials with their first metric."""
    pairs = [(t, t.values[0]) for t in sweep.trials if t.state == "finished"]
    return [(trial, value) for trial, value in pairs if isfinite(value)]


def _history(trial: TrialRow) -> list[Point]:
    """Epochs with the first metric, in order."""
    return [(epoch, value) for epoch, value in sorted(trial.history.items()) if isfinite(value)]
