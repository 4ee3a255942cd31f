"""Optuna's own plots of a sweep in the look of a page, as inline SVG.

Optuna is given a copy of the study in memory: one metric, finite values, parameters by the names of
tables. A plot that has nothing to show is an empty string.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite, log
from typing import TYPE_CHECKING

from kd_ray.config.sweep import Direction
from kd_ray.report.plots import INK, RULE, STYLE, Drawing, colour, count_whole, stand_in, svg_of
from tuning.outcome import Sweep, metric_name
from tuning.plots import (
    BEST,
    OTHER,
    STOPPED,
    finished_trials,
    is_rising,
    show_values,
    worth_seeing,
)
from tuning.space import names_shown
from tuning.trial import COSTS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

OPTUNAS = {"#1f77b4": OTHER, "#d62728": BEST, "#3182bd": BEST}
"""Optuna's colours of trials, of the best ones, and of bars, and what takes their place."""

ENOUGH = 4
"""Trials from which importances say something."""

IMPORTANCE_NOTE = (
    "How much of the variance of the {metric} over the space each parameter explains, by a random "
    "forest's fANOVA (Hutter et al. 2014) of {trials} finished trials{which}. With few trials, or "
    "a sampler that soon keeps to good ones, it is a hint and no more."
)


def history_plot(sweep: Sweep) -> str:
    """The first metric of every finished trial in their order, and the best so far."""
    from optuna.visualization.matplotlib import plot_optimization_history

    values = [value for _, value in finished_trials(sweep)]
    if not values:
        return ""
    name = metric_name(sweep.options.metrics[0])
    with _optunas_plot("Trials in their order") as plot:
        axes = plot_optimization_history(_first_metric_study(sweep), target_name=name)
        axes.set_ylim(worth_seeing(values, is_rising(sweep)))
        axes.set_xlabel("trial")
        count_whole(axes)
    return plot.svg


def learning_plot(sweep: Sweep) -> str:
    """The first metric over the epochs of every trial that did not fail, the best one in front."""
    from optuna.visualization.matplotlib import plot_intermediate_values

    study = _first_metric_study(sweep)
    trials = [t for t in study.trials if t.intermediate_values and t.state.name != "FAIL"]
    if not trials:
        return ""
    best = next((trial.number for trial in sweep.front), None)
    values = [value for trial in trials for value in trial.intermediate_values.values()]
    named: set[str] = set()
    with _optunas_plot("Learning curves") as plot:
        axes = plot_intermediate_values(study)
        for line, trial in zip(axes.lines, trials, strict=True):
            name, kind, width = "stopped or running", STOPPED, 0.9
            if trial.state.name == "COMPLETE":
                name, kind = "finished", OTHER
            if trial.number == best:
                name, kind, width = f"trial {best}, the best", BEST, 2.2
            line.set(color=stand_in(kind), linewidth=width, zorder=2 + width)
            line.set(marker="." if len(trial.intermediate_values) == 1 else "")
            line.set_label("_" if name in named else name)
            named.add(name)
        axes.set(xlabel="epoch", ylabel=metric_name(sweep.options.metrics[0]))
        axes.set_ylim(worth_seeing(values, is_rising(sweep)))
        count_whole(axes)
    return plot.svg


def importance_plot(sweep: Sweep) -> tuple[str, str]:
    """Bars of how much of the first metric's variance each parameter explains.

    Returns:
        The plot, and a sentence on what it is of; or "", and a sentence that says why.
    """
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    names = {key: name for name, key in names_shown(sweep.options).items()}
    study = _first_metric_study(sweep)
    finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    # Trials without a soft term have neither T nor c, and fANOVA takes whole points only.
    whole = [trial for trial in finished if trial.params.keys() >= names.keys()]
    which = " with a soft term" if len(whole) < len(finished) else ""
    missing = "Importances of parameters are left out: "
    if len(names) == 1:
        return "", f"{missing}only one was searched."
    if len(whole) < ENOUGH:
        needed = f"{ENOUGH} finished trials{which} are needed"
        return "", f"{missing}{needed}, and there are {len(whole)}."
    if len({trial.value for trial in whole}) == 1:
        return "", f"{missing}all trials are equally good."
    metric = metric_name(sweep.options.metrics[0])
    evaluator = FanovaImportanceEvaluator(seed=0)
    points = _study(sweep.options.directions[:1], [_straightened(trial, names) for trial in whole])
    try:
        with _optunas_plot("Importance of parameters", 1.0 + 0.32 * len(names)) as plot:
            axes = plot_param_importances(points, evaluator, params=list(names.values()))
            axes.set(xlabel="share of the explained variance", ylabel="")
            for share in axes.texts:
                share.set(x=share.get_position()[0] + 0.005)
    except (RuntimeError, ValueError) as error:
        return "", f"{missing}{error}"
    return plot.svg, IMPORTANCE_NOTE.format(metric=metric, trials=len(whole), which=which)


def _straightened(trial: "FrozenTrial", names: Mapping[str, str]) -> "FrozenTrial":
    """A trial with logarithms for parameters that were searched over the logarithm.

    Optuna's fANOVA would take their values as they are, so that nearly all of the space would lie
    in the last decade.
    """
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    parameters = {names[key]: trial.params[key] for key in names}
    spaces = {names[key]: trial.distributions[key] for key in names}
    for name, space in spaces.items():
        if isinstance(space, FloatDistribution | IntDistribution) and space.log:
            parameters[name] = log(parameters[name])
            spaces[name] = FloatDistribution(log(space.low), log(space.high))
    return create_trial(params=parameters, distributions=spaces, value=trial.value)


def front_plot(sweep: Sweep) -> str:
    """The first two of several metrics against each other, a cost on the horizontal axis."""
    from optuna.visualization.matplotlib import plot_pareto_front

    options = sweep.options
    trials = sweep.study.get_trials(deepcopy=False)
    finished = [t for t in trials if t.state.name == "COMPLETE" and all(map(isfinite, t.values))]
    if len(options.metrics) < 2 or not finished:
        return ""
    x, y = (0, 1) if options.metrics[0] in COSTS and options.metrics[1] not in COSTS else (1, 0)
    study = _study(options.directions, finished)
    with _optunas_plot("Pareto front", height=3.8) as plot:
        axes = plot_pareto_front(
            study,
            target_names=[metric_name(options.metrics[place]) for place in (x, y)],
            targets=lambda trial: (trial.values[x], trial.values[y]),
        )
        for trial in sweep.front:
            place = trial.values[x], trial.values[y]
            if all(map(isfinite, place)):
                axes.annotate(str(trial.number), place, (5, 5), textcoords="offset points")
        show_values(axes.xaxis, options.metrics[x])
        show_values(axes.yaxis, options.metrics[y])
    return plot.svg


@contextmanager
def _optunas_plot(title: str, height: float = 3.2) -> Iterator[Drawing]:
    """A plot whose axes Optuna makes, in the look of a page; nothing global is left behind."""
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.text import Text
    from optuna.exceptions import ExperimentalWarning

    ink, rule = stand_in(INK), stand_in(RULE)
    with warnings.catch_warnings(), matplotlib.rc_context({**STYLE, "interactive": False}):
        warnings.simplefilter("ignore", ExperimentalWarning)
        plot = Drawing([])
        yield plot
        drawn = pyplot.gcf()
        (axes,) = drawn.axes
        matplotlib.rcParams.update(STYLE)  # Optuna has chosen a style sheet
        drawn.set_size_inches(8.8, height)
        drawn.set_layout_engine("constrained")
        axes.spines[:].set_color(rule)
        axes.tick_params(color=rule, labelcolor=ink)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", color=rule, linewidth=STYLE["grid.linewidth"])
        for text in drawn.findobj(Text):
            text.set(color=ink, fontsize=STYLE["font.size"])
        axes.set_title(title, fontsize=STYLE["axes.titlesize"])
        marks, names = axes.get_legend_handles_labels()
        legend = axes.legend(
            marks, names, loc="lower right", bbox_to_anchor=(1, 1), ncols=max(len(names), 1)
        )
        legend.set_visible(len(names) > 1)
        svg = svg_of(drawn, title)
        pyplot.close(drawn)
    for theirs, kind in OPTUNAS.items():
        svg = svg.replace(theirs, colour(kind))
    plot.svg = svg


def _first_metric_study(sweep: Sweep) -> "Study":
    """The trials of a sweep as if it had one metric; those without a finite one have failed."""
    from optuna.trial import TrialState, create_trial

    trials = []
    for trial in sweep.study.get_trials(deepcopy=False):
        finished = trial.state == TrialState.COMPLETE
        is_known = finished and isfinite(trial.values[0])
        history = trial.intermediate_values.items()
        trials.append(
            create_trial(
                state=trial.state if is_known or not finished else TrialState.FAIL,
                value=trial.values[0] if is_known else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={e: value for e, value in history if isfinite(value)},
            )
        )
    return _study(sweep.options.directions[:1], trials)


def _study(directions: Sequence[Direction], trials: "Sequence[FrozenTrial]") -> "Study":
    """A study in memory."""
    import optuna

    study = optuna.create_study(directions=directions)
    study.add_trials(trials)
    return study
