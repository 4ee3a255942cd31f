"""The experiments as `results.json` and as one page: a table for each, and errors over T."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kd_ray.files import write_json
from kd_ray.report.html import Section, study_page, write_page
from kd_ray.report.panels import Line, Panel, over_choice
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
    page = findings_page(scale, experiments, found, missing, failures)
    return [folder / RESULTS, write_page(folder / PAGE, page)]


def findings_page(
    scale: Scale,
    experiments: Sequence[Experiment],
    found: Mapping[str, Sequence[Finding]],
    missing: Sequence[str],
    failures: "Sequence[Failure]",
) -> str:
    """The whole page, which needs no other file; arguments as for `write_findings`."""
    reasons = {failure.part: f"{failure.part}: failed, {failure.reason}" for failure in failures}
    return study_page(
        f"{scale.name}: the paper's experiments",
        [NOTE, scale.about] if scale.about else [NOTE],
        [reasons.get(part, part) for part in missing],
        [_section(scale, experiment, found.get(experiment.name)) for experiment in experiments],
    )


def _section(scale: Scale, experiment: Experiment, lines: Sequence[Finding] | None) -> Section:
    if lines is None:
        return Section(experiment.title, [experiment.about, "Unfinished."])
    plot = _over_temperature(scale, lines) if experiment.name == "temperature" else ""
    rows = [line.cells() for line in lines]
    return Section(experiment.title, [experiment.about], plot, rows)


def _over_temperature(scale: Scale, lines: Sequence[Finding]) -> str:
    """Errors over T, a panel for each width: their errors have no common scale."""
    panels = []
    for width in scale.widths:
        mine = [line for line in lines if line.part == width_part(width)]
        warm = [line for line in mine if line.temperature is not None]
        figures, places = [line.figure for line in warm], [line.temperature or 0 for line in warm]
        levels = [
            Line("on labels", LABELS, [line.figure]) for line in mine if line.variant == LABELS
        ]
        curve = Line("distilled", "distilled", figures, places)
        panels.append(Panel(f"2 x {width} units", [*levels, curve]))
    return over_choice(
        "Test errors over temperature", panels, choice="temperature T", figure="test errors"
    )
