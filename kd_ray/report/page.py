"""The report of a run: one HTML file that needs nothing else, for a screen or for paper."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from kd_ray.errors import ConfigError
from kd_ray.files import committed_file, to_path
from kd_ray.report.bits import low_bit_section
from kd_ray.report.cost import cost_of
from kd_ray.report.markup import document, element, paragraph, section, table
from kd_ray.report.plots import Curve, Dots, colour, curves, error_dots
from kd_ray.report.specialists import specialists_section
from kd_ray.report.style import CSS
from kd_ray.report.summary import (
    MODEL_NAMES,
    Summary,
    figures_table,
    summarize_results,
)
from kd_ray.result import RESULT, Result
from kd_ray.runs.folder import Artefact, RunFolder, read_run
from kd_ray.units import bytes_shown

REPORT = "report.html"

CURVES_NOTE = (
    "One line for each seed. Every kind of student minimizes its own objective, so training losses "
    "have no common scale; accuracies do. Those of long trainings are cut off at the bottom, where "
    "the first tenth of the epochs lies. Training accuracy is of the images as the model saw them, "
    "so augmentation and dropout lower it."
)
GAP_NOTE = (
    "Gap closed: (errors of the student on labels - errors of the distilled student) / (errors of "
    "the student on labels - errors of the teacher), of mean errors. Agreement: share of test "
    "images for which student and teacher choose the same class. Calibration error: mean distance "
    "between confidence and accuracy over 15 bins (Guo et al. 2017). Seconds: training one model. "
    "± is the sample standard deviation over seeds."
)


def write_report(run: str | Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    What is unfinished is named and shown as far as it has got.

    Raises:
        ConfigError: it is no run folder, or nothing in it is finished.
        CheckpointError: a result is not readable.
        StorageError: the file cannot be written.
    """
    opened = read_run(run)
    if not opened.results:
        raise ConfigError(
            f"{run}: a report needs something finished, but there is no {RESULT} yet; "
            "run the recipe first"
        )
    page = report_page(opened)
    path = to_path(run) / REPORT
    with committed_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def report_page(run: RunFolder) -> str:
    """The whole page."""
    summary = summarize_results(run.path, run.results)
    body = "\n".join(
        part
        for part in (
            _heading(run),
            _unfinished(run),
            _tiles(summary),
            _figures(summary),
            _learning(run),
            specialists_section(summary),
            low_bit_section(run.results),
            _transfer_set(run, summary),
            _recipe(run),
            _provenance(run),
        )
        if part
    )
    return document(f"{run.path.name} - kd-ray report", CSS, body)


def _heading(run: RunFolder) -> str:
    recipe, objective = run.recipe, run.recipe.objective
    teacher = ""
    if recipe.teacher:
        members = recipe.teacher.members
        names = dict.fromkeys(recipe.teacher.model_of(member).name for member in range(members))
        teacher = f"{'teacher' if members == 1 else f'{members} teachers'} {', '.join(names)}, "
    about = (
        f"{recipe.data.name}: {teacher}student {recipe.student.model.name}, "
        f"T = {objective.temperature:g}, c = {objective.soft_weight}, "
        f"h = {objective.hard_weight:g}"
    )
    return (
        f"<header>\n{element('h1', run.path.name)}\n{element('p', about, role='doc-subtitle')}\n"
        "</header>"
    )


def _unfinished(run: RunFolder) -> str:
    if not run.unfinished:
        return ""
    items = "".join(element("li", artefact.progress) for artefact in run.unfinished)
    return (
        "<aside>\n<p><strong>This run is unfinished.</strong> Not there yet, so not in the figures "
        f"below:</p>\n<ul>{items}</ul>\n</aside>"
    )


def _tiles(summary: Summary) -> str:
    """The figures that one looks for first."""
    tiles = []
    teacher, student = summary.row("teacher"), summary.row("distilled")
    if summary.gap_closed is not None:
        tiles.append(("gap closed", f"{100 * summary.gap_closed:.0f} %"))
    if student is not None:
        for title, metric in (("distilled accuracy", "accuracy"), ("agreement", "agreement")):
            if metric in student.metrics:
                tiles.append((title, f"{100 * student.metrics[metric].mean:.2f} %"))
    if student is not None and teacher is not None:
        share = student.parameters / teacher.parameters
        tiles.append(("parameters, of the teacher's", f"{100 * share:,.1f} %"))
    return _facts(tiles)


def _figures(summary: Summary) -> str:
    if not summary.rows:
        return ""
    cost = cost_of(summary.results)
    said = (summary.about_gap(), summary.about_gain(), "" if cost is None else str(cost))
    parts = [
        *(paragraph(sentence) for sentence in said if sentence),
        f'<div class="wide">{figures_table(summary)}</div>',
    ]
    teacher = summary.row("teacher")
    groups = [
        Dots(row.name, MODEL_NAMES.get(row.name, row.name), row.metrics["errors"].values)
        for row in summary.rows
        if row.name not in ("teacher", "ensemble") and "errors" in row.metrics
    ]
    if groups:
        taught = teacher.metrics["errors"].values if teacher else ()
        plot = error_dots("Test errors", groups, taught)
        parts.append(f'<figure class="wide">{plot}</figure>')
        caption = "A dot for each seed, a bar for their mean, a dashed line for each teacher."
        parts.append(element("p", caption, **{"class": "note"}))
    parts.append(element("p", GAP_NOTE, **{"class": "note"}))
    return section("Test split", *parts)


def _learning(run: RunFolder) -> str:
    trainings = [artefact for artefact in run.artefacts if artefact.history]
    kinds = list(dict.fromkeys(artefact.kind for artefact in trainings))
    plots = [
        curves(f"Training loss, {MODEL_NAMES.get(kind, kind)}", lines)
        for kind in kinds
        if (lines := list(_lines([a for a in trainings if a.kind == kind], "train_loss")))
    ]
    # A specialist's accuracy is among other classes than everybody else's.
    alike = [artefact for artefact in trainings if artefact.kind != "specialist"]
    for title, metric in (("Training", "train_accuracy"), ("Validation", "accuracy")):
        if lines := list(_lines(alike, metric)):
            plots.append(curves(f"{title} accuracy", lines, percent=True))
    if lines := list(_lines(trainings, "gradient_norm")):
        plots.append(curves("Gradient norm", lines))
    if not plots:
        return ""
    keys = "".join(
        '<span><svg width="22" height="8" aria-hidden="true"><line x1="0" y1="4" x2="22" y2="4" '
        f'stroke="{colour(kind)}" stroke-width="3"/></svg> {escape(MODEL_NAMES.get(kind, kind))}'
        "</span>"
        for kind in kinds
    )
    return section(
        "Learning curves",
        f'<p class="legend">{keys}</p>',
        f'<div class="plots">{"".join(f"<figure>{plot}</figure>" for plot in plots)}</div>',
        element("p", CURVES_NOTE, **{"class": "note"}),
    )


def _lines(trainings: list[Artefact], metric: str) -> Iterator[Curve]:
    for training in trainings:
        records = [record for record in training.history if metric in record]
        if records:
            epochs = [record["epoch"] for record in records]
            yield Curve(training.kind, epochs, [record[metric] for record in records])


def _transfer_set(run: RunFolder, summary: Summary) -> str:
    cost = summary.transfer_set
    if cost is None:
        path = run.recipe.transfer_set.path
        return "" if path is None else section("Transfer set", paragraph(f"Given: {path}"))
    facts = [
        ("rows", f"{cost['rows']:,.0f}"),
        ("size", bytes_shown(cost["bytes"])),
        ("bytes per row", f"{cost['bytes_per_row']:.1f}"),
        ("seconds to label", f"{cost['seconds']:,.1f}"),
    ]
    return section("Transfer set", _facts(facts))


def _recipe(run: RunFolder) -> str:
    return section("Recipe", element("pre", run.recipe_text))


def _provenance(run: RunFolder) -> str:
    """What made the artefacts, and what identifies them."""
    versions: dict[str, list[str]] = {}
    hashes = []
    for result in run.results:
        for package, version in result.versions.items():
            seen = versions.setdefault(package, [])
            if version not in seen:
                seen.append(version)
        hashes.append([*_identified(result)])
    fingerprints = {result.parents.get("dataset") for result in run.results} - {None}
    hashes = [["dataset", "-", str(print_)] for print_ in sorted(map(str, fingerprints))] + hashes
    made_with = ", ".join(f"{package} {' and '.join(seen)}" for package, seen in versions.items())
    return section(
        "Versions and artefacts",
        paragraph(made_with),
        f'<div class="hashes">{table(["artefact", "checkpoint", "sha256"], hashes)}</div>',
    )


def _identified(result: Result) -> tuple[str, str, str]:
    return result.title, result.checkpoint or "-", result.fingerprint or "-"


def _facts(facts: list[tuple[str, str]]) -> str:
    """Names and values, side by side in large type."""
    shown = "".join(
        f"<div>{element('dt', name)}{element('dd', value)}</div>" for name, value in facts
    )
    return f'<dl class="tiles">{shown}</dl>' if facts else ""
