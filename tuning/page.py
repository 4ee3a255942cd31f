"""The report of a sweep: one HTML file that needs nothing else, for a screen or for paper."""

from pathlib import Path

from kd_ray.config import Range
from kd_ray.files import committed_file
from kd_ray.report.markup import document, element, paragraph, section, table
from kd_ray.report.style import CSS
from tuning.axes import metric_name
from tuning.outcome import Sweep, TrialRow, figure
from tuning.plots import (
    front_plot,
    history_plot,
    importance_plot,
    importances,
    learning_plot,
    temperature_plot,
    weight_plot,
)
from tuning.space import names_shown, shown

TEST_NOTE = (
    "Trials were compared by validation rows alone; the test split was looked at for the best "
    "only, when the search was over."
)
FRONT_NOTE = (
    "Numbers are those of trials. No trial beats one on the front in a metric without losing in "
    "another."
)
EDGE_NOTE = "Here and below, triangles on an edge are trials that lie beyond it."


def write_page(sweep: Sweep, path: Path) -> Path:
    """Writes the page and returns its path.

    Raises:
        StorageError: the file cannot be written.
    """
    text = page(sweep)
    with committed_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def page(sweep: Sweep) -> str:
    """The whole page; of the same sweep, always the same."""
    parts = (
        _heading(sweep),
        _best(sweep),
        _course(sweep),
        _influence(sweep),
        _space(sweep),
        _all_trials(sweep),
        _failures(sweep),
    )
    body = "\n".join(part for part in parts if part)
    return document(f"{sweep.recipe.name}: sweep - kd-ray report", CSS, body)


def best_table(sweep: Sweep) -> str:
    """The best trial, or the Pareto front, as an HTML table; the test split where it is known."""
    if not sweep.front:
        return paragraph("No trial has finished.")
    tests = {entry["trial"]: entry["test"] for entry in sweep.best}
    rows = []
    for trial in sweep.front:
        cells = _cells(sweep, trial)
        del cells["state"]
        test = tests.get(trial.number, {})
        accuracy, errors = test.get("accuracy"), test.get("errors")
        cells["test accuracy %"] = "-" if accuracy is None else f"{100 * accuracy:.2f}"
        cells["test errors"] = "-" if errors is None else f"{errors:,.1f}".removesuffix(".0")
        rows.append(cells)
    return _wide_table(rows)


def _heading(sweep: Sweep) -> str:
    recipe, options = sweep.recipe, sweep.options
    *others, last = names_shown(options)
    searched = f"{', '.join(others)} and {last}" if others else last
    wanted = " and ".join(
        f"{'highest' if way == 'maximize' else 'lowest'} {metric_name(metric)}"
        for metric, way in zip(options.metrics, options.directions, strict=True)
    )
    student = recipe.student.model.name
    about = f"{recipe.data.name}: student {student}; {searched} searched for the {wanted}"
    seconds = sum(trial.seconds or 0 for trial in sweep.trials)
    tiles = [
        ("trials finished", str(sweep.count("finished"))),
        ("stopped early", str(sweep.count("stopped"))),
        ("failed", str(sweep.count("failed"))),
        ("seconds of training", f"{seconds:,.0f}"),
    ]
    if sweep.count("running"):
        tiles.insert(1, ("running", str(sweep.count("running"))))
    shown_tiles = "".join(
        f"<div>{element('dt', name)}{element('dd', value)}</div>" for name, value in tiles
    )
    return (
        f"<header>\n{element('h1', recipe.name)}\n{element('p', about, role='doc-subtitle')}\n"
        f'</header>\n<dl class="tiles">{shown_tiles}</dl>\n{_note(_rules(sweep))}'
    )


def _rules(sweep: Sweep) -> str:
    """How trials were chosen and stopped, and what their figures are."""
    options = sweep.options
    found = [f"Sampler {options.sampler}, seed {options.seed}."]
    if options.stopping == "asha":
        found.append(
            f"Scheduler asha: from {options.grace} epochs on, one trial in {options.reduction} "
            "goes on at each rung."
        )
    elif options.stopping == "median":
        found.append(
            f"Scheduler median: from {options.grace} epochs on, a trial worse than the median of "
            "those before stops."
        )
    else:
        found.append("Scheduler none: no trial was stopped early.")
    if options.hold_out and not sweep.recipe.data.validation:
        found.append(
            f"Validation rows are {options.hold_out:.0%} of the transfer set's training rows, on "
            "which no trial is trained."
        )
    if len(options.seeds) > 1:
        found.append(f"Figures of a trial are means over {len(options.seeds)} students.")
    if any(trial.seconds is None and trial.epochs for trial in sweep.trials):
        found.append("Seconds are of trials that came to their end.")
    return " ".join(found)


def _best(sweep: Sweep) -> str:
    several = len(sweep.options.metrics) > 1
    return section(
        "Pareto front" if several else "Best trial",
        best_table(sweep),
        _note(TEST_NOTE) if sweep.best else "",
        _figure(front_plot(sweep)),
        _note(FRONT_NOTE) if several and sweep.front else "",
    )


def _course(sweep: Sweep) -> str:
    plots = [_figure(history_plot(sweep)), _figure(learning_plot(sweep))]
    note = _note(EDGE_NOTE) if len(sweep.trials) > 1 else ""
    return section("Course of the search", *plots, note) if any(plots) else ""


def _influence(sweep: Sweep) -> str:
    if not sweep.count("finished"):
        return ""
    shares, note = importances(sweep)
    return section(
        "Parameters",
        _figure(importance_plot(shares)),
        _note(note),
        _figure(temperature_plot(sweep)),
        _figure(weight_plot(sweep)),
    )


def _space(sweep: Sweep) -> str:
    options = sweep.options
    rows = [
        [name, _range_shown(options.space[key]), key] for name, key in names_shown(options).items()
    ]
    return section(
        "Search space", f'<div class="hashes">{table(["name", "values", "key"], rows)}</div>'
    )


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
    return (
        ("whole numbers " if values.is_whole else "")
        + f"{low:g} to {high:g}"
        + (", over the logarithm" if values.is_log else "")
        + ("; or 0" if values.or_zero else "")
    )


def _all_trials(sweep: Sweep) -> str:
    if not sweep.trials:
        return ""
    return section("All trials", _wide_table([_cells(sweep, trial) for trial in sweep.trials]))


def _failures(sweep: Sweep) -> str:
    causes = [(trial.number, trial.cause) for trial in sweep.trials if trial.cause]
    items = "".join(element("li", f"trial {number}: {cause}") for number, cause in causes)
    return section("Failures", f"<ul>{items}</ul>") if causes else ""


def _cells(sweep: Sweep, trial: TrialRow) -> dict[str, str]:
    """Heading -> text."""
    options = sweep.options
    settings = shown(trial.settings, options)
    cells = {"trial": str(trial.number), "state": trial.state}
    cells |= {name: settings.get(name, "-") for name in names_shown(options)}
    cells["epochs"] = str(trial.epochs) if trial.epochs else "-"
    known = {**trial.metrics, **dict(zip(options.metrics, trial.values, strict=False))}
    for metric in options.metrics:
        cells[metric_name(metric)] = figure(metric, known[metric]) if metric in known else "-"
    cells["seconds"] = "-" if trial.seconds is None else f"{trial.seconds:,.1f}"
    return cells


def _wide_table(rows: list[dict[str, str]]) -> str:
    return f'<div class="wide">{table(list(rows[0]), [list(row.values()) for row in rows])}</div>'


def _figure(svg: str) -> str:
    return f'<figure class="wide">{svg}</figure>' if svg else ""


def _note(text: str) -> str:
    return element("p", text, **{"class": "note"})
