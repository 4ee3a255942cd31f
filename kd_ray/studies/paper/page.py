"""The experiments as `results.json` and as one page: a table for each, and errors over T."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kd_ray.files import committed_file, write_json
from kd_ray.report.markup import document, element, paragraph, section, table
from kd_ray.report.panels import Level, Line, Panel, over_choice
from kd_ray.report.style import CSS
from kd_ray.runs.variants import LABELS
from kd_ray.studies.paper.experiments import Experiment
from kd_ray.studies.paper.measures import Finding
from kd_ray.studies.paper.scales import Scale, width_part
from kd_ray.training.checkpoint import versions

if TYPE_CHECKING:
    from kd_ray.studies.paper.drive import Failure

RESULTS, PAGE = "results.json", "report.html"
NOTE = (
    "Test split; mean over seeds with the sample standard deviation. The paper: G. Hinton, "
    "O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, sections 3 to 6."
)


def write_findings(
    folder: Path,
    scale: Scale,
    experiments: Sequence[Experiment],
    found: Mapping[str, Sequence[Finding]],
    missing: Sequence[str],
    failures: "Sequence[Failure]",
) -> list[Path]:
    """Writes `results.json` and `report.html` and returns their paths.

    Args:
        folder: that holds the run folders.
        scale: how large.
        experiments: those to show.
        found: experiment -> lines, of the finished ones.
        missing: parts that are not finished.
        failures: what went wrong.
    """
    done = all(experiment.name in found for experiment in experiments) and not missing
    write_json(
        folder / RESULTS,
        {
            "name": scale.name,
            "status": "finished" if done else "unfinished",
            "about": scale.about,
            "experiments": {
                experiment.name: {
                    "title": experiment.title,
                    "status": "finished" if experiment.name in found else "unfinished",
                    "figures": [line.table() for line in found.get(experiment.name, ())],
                }
                for experiment in experiments
            },
            "unfinished": list(missing),
            "failed": {failure.part: failure.reason for failure in failures},
            "versions": versions(),
        },
    )
    with committed_file(folder / PAGE) as draft:
        page = findings_page(scale, experiments, found, missing, failures)
        draft.write_text(page, encoding="utf-8")
    return [folder / RESULTS, folder / PAGE]


def findings_page(
    scale: Scale,
    experiments: Sequence[Experiment],
    found: Mapping[str, Sequence[Finding]],
    missing: Sequence[str],
    failures: "Sequence[Failure]",
) -> str:
    """The whole page, which needs no other file; arguments as for `write_findings`."""
    header = "\n".join(
        part
        for part in (
            element("h1", f"{scale.name}: the paper's experiments"),
            element("p", NOTE, role="doc-subtitle"),
            element("p", scale.about) if scale.about else "",
        )
        if part
    )
    body = "\n".join(
        [
            f"<header>\n{header}\n</header>",
            _unfinished(missing, failures),
            *(_section(scale, experiment, found) for experiment in experiments),
        ]
    )
    return document(f"{scale.name} - kd-ray", CSS, body)


def _unfinished(missing: Sequence[str], failures: "Sequence[Failure]") -> str:
    if not missing:
        return ""
    reasons = {failure.part: f"{failure.part}: failed, {failure.reason}" for failure in failures}
    items = "".join(element("li", reasons.get(part, part)) for part in missing)
    return (
        "<aside>\n<p><strong>Unfinished.</strong> Not there yet, so not in the figures below:</p>\n"
        f"<ul>{items}</ul>\n</aside>"
    )


def _section(scale: Scale, experiment: Experiment, found: Mapping[str, Sequence[Finding]]) -> str:
    lines = found.get(experiment.name)
    if lines is None:
        return section(experiment.title, paragraph(experiment.about), paragraph("Unfinished."))
    cells = [line.cells() for line in lines]
    plot = _over_temperature(scale, lines) if experiment.name == "temperature" else ""
    return section(
        experiment.title,
        paragraph(experiment.about),
        f'<figure class="wide">{plot}</figure>' if plot else "",
        f'<div class="wide">{table(list(cells[0]), [list(row.values()) for row in cells])}</div>',
    )


def _over_temperature(scale: Scale, lines: Sequence[Finding]) -> str:
    """Errors over T, a panel for each width: their errors have no common scale."""
    panels = []
    for width in scale.widths:
        mine = [line for line in lines if line.part == width_part(width)]
        warm = [line for line in mine if line.temperature is not None]
        levels = [
            Level("on labels", LABELS, line.figure) for line in mine if line.variant == LABELS
        ]
        curve = Line(
            "distilled",
            "distilled",
            [line.temperature or 0.0 for line in warm],
            [line.figure for line in warm],
        )
        panels.append(Panel(f"2 x {width} units", [curve], levels))
    return over_choice(
        "Test errors over temperature", panels, choice="temperature T", figure="test errors"
    )
