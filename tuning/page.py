"""The report of a sweep: one HTML file that needs nothing else, for a screen or for paper."""

from kd_ray.config import Range
from kd_ray.report.html import rendered
from tuning.optuna_plots import front_plot, history_plot, importance_plot, learning_plot
from tuning.outcome import Sweep, metric_name
from tuning.plots import temperature_plot, weight_plot
from tuning.space import names_shown


def page(sweep: Sweep) -> str:
    """The whole page; of the same sweep, always the same."""
    importance, importance_note = importance_plot(sweep)
    return rendered(
        "sweep",
        sweep=sweep,
        about=_about(sweep),
        seconds=sum(trial.seconds or 0 for trial in sweep.trials),
        best=sweep.best_rows(),
        front=front_plot(sweep),
        history=history_plot(sweep),
        learning=learning_plot(sweep),
        importance=importance,
        importance_note=importance_note,
        temperature=temperature_plot(sweep),
        weight=weight_plot(sweep),
        space=[
            {"name": name, "values": _range_shown(sweep.options.space[key]), "key": key}
            for name, key in names_shown(sweep.options).items()
        ],
        trials=[sweep.cells(trial) for trial in sweep.trials],
    )


def _about(sweep: Sweep) -> str:
    recipe, options = sweep.recipe, sweep.options
    *others, last = names_shown(options)
    searched = f"{', '.join(others)} and {last}" if others else last
    wanted = " and ".join(
        f"{'highest' if way == 'maximize' else 'lowest'} {metric_name(metric)}"
        for metric, way in zip(options.metrics, options.directions, strict=True)
    )
    student = recipe.student.model.name
    return f"{recipe.data.name}: student {student}; {searched} searched for the {wanted}"


def _range_shown(values: Range) -> str:
    """The values of a range as a person reads them.

    >>> _range_shown(Range(log_uniform=[0.1, 10], or_zero=True))
    '0.1 to 10, over the logarithm; or 0'
    >>> _range_shown(Range(choice=[2, [64, 64]]))
    '2; [64, 64]'
    """
    if values.choice is not None:
        return "; ".join(str(value) for value in values.choice)
    low, high = values.ends
    whole = "whole numbers " if values.is_whole else ""
    way = ", over the logarithm" if values.is_log else ""
    return f"{whole}{low:g} to {high:g}{way}{'; or 0' if values.or_zero else ''}"
