"""The report of a run: one HTML file that needs nothing else, for a screen or for paper."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.report.advice import advice
from kd_ray.report.exports import export_plot, export_rows
from kd_ray.report.html import rendered, write_page
from kd_ray.report.plots import Curve, colour, curves, error_dots
from kd_ray.report.specialists import specialists_parts
from kd_ray.report.summary import MODEL_NAMES, Summary, about_cost, summarize_results
from kd_ray.result import RESULT, STUDENT, Result
from kd_ray.runs.folder import Artefact, RunFolder, read_run

REPORT = "report.html"


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
    return write_page(to_path(run) / REPORT, report_page(opened))


def report_page(run: RunFolder) -> str:
    """The whole page."""
    summary = summarize_results(run.path, run.results)
    trainings = [artefact for artefact in run.artefacts if artefact.history]
    return rendered(
        "run",
        run=run,
        summary=summary,
        cost=about_cost(run.results),
        advice=advice(summary),
        error_plot=_error_plot(summary),
        legend={MODEL_NAMES.get(a.kind, a.kind): colour(a.kind) for a in trainings},
        curves=list(_curves(trainings)),
        few_bits=list(_few_bits(run.results)),
        exports=export_rows(run.results),
        export_plot=export_plot(run.results),
        versions=_versions(run.results),
        **specialists_parts(summary),
    )


def _error_plot(summary: Summary) -> str:
    teacher = summary.row("teacher")
    groups = {
        row.name: row.metrics["errors"].values
        for row in summary.rows
        if row.name not in ("teacher", "ensemble") and "errors" in row.metrics
    }
    taught = teacher.metrics["errors"].values if teacher else ()
    return error_dots("Test errors", groups, taught) if groups else ""


def _curves(trainings: Sequence[Artefact]) -> Iterator[str]:
    """Losses of each kind of model, and what all of them have a common scale of."""
    for kind in dict.fromkeys(artefact.kind for artefact in trainings):
        if lines := _lines([a for a in trainings if a.kind == kind], "train_loss"):
            yield curves(f"Training loss, {MODEL_NAMES.get(kind, kind)}", lines)
    # A specialist's accuracy is among other classes than everybody else's.
    alike = [artefact for artefact in trainings if artefact.kind != "specialist"]
    for title, metric in (("Training", "train_accuracy"), ("Validation", "accuracy")):
        if lines := _lines(alike, metric):
            yield curves(f"{title} accuracy", lines, percent=True)
    if lines := _lines(trainings, "gradient_norm"):
        yield curves("Gradient norm", lines)


def _lines(trainings: Sequence[Artefact], metric: str) -> list[Curve]:
    lines = []
    for training in trainings:
        values = {r["epoch"]: r[metric] for r in training.history if metric in r}
        if values:
            lines.append(Curve(training.kind, list(values), list(values.values())))
    return lines


def _few_bits(results: Sequence[Result]) -> Iterator[tuple[str, Result]]:
    """A plot of activity over epochs and layers for the first seed of each low-bit student."""
    shown = set()
    for result in results:
        records = [record for record in result.history if "layers" in record]
        if result.kind != STUDENT or not records or result.variant in shown:
            continue
        shown.add(result.variant)
        lines = []
        for name in records[-1]["layers"]:
            seen = [(r["epoch"], r["layers"][name]["on"]) for r in records if name in r["layers"]]
            lines.append(Curve("", [epoch for epoch, _ in seen], [on for _, on in seen], name))
        yield curves(f"Activations that are on, {result.title}", lines, percent=True), result


def _versions(results: Sequence[Result]) -> str:
    """What made the artefacts."""
    versions: dict[str, dict[str, None]] = {}
    for result in results:
        for package, version in result.versions.items():
            versions.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' and '.join(seen)}" for package, seen in versions.items())
