"""The experiments as `results.json` and as one page: a table for each, and errors over T."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_ray.files import write_json
from kd_ray.report.html import Section, rendered, write_page
from kd_ray.report.panels import Line, over_choice
from kd_ray.runs.variants import DISTILLED, LABELS
from kd_ray.studies.paper.experiments import Experiment, Findings
from kd_ray.studies.paper.scales import Scale, width_part
from kd_ray.versions import versions

RESULTS, PAGE = "results.json", "report.html"
NOTE = (
    "Test split; mean over seeds with the sample standard deviation. The paper: G. Hinton, "
    "O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, sections 3 to 6."
)


def write_findings(
    folder: Path,
    scale: Scale,
    experiments: Sequence[Experiment],
    findings: Mapping[str, Findings],
    unfinished: Mapping[str, str],
) -> tuple[list[Section], list[Path]]:
    """Writes `results.json` and `report.html`.

    Args:
        folder: that holds the run folders.
        scale: how large.
        experiments: those to show.
        findings: experiment -> lines, of the finished ones.
        unfinished: part -> what went wrong, or "".

    Returns:
        A section for each experiment, and the paths.
    """
    done = all(experiment.name in findings for experiment in experiments) and not unfinished
    content = {
        "name": scale.name,
        "status": "finished" if done else "unfinished",
        "about": scale.about,
        "experiments": {
            experiment.name: {
                "title": experiment.title,
                "status": "finished" if experiment.name in findings else "unfinished",
                "figures": [
                    line.table(figure) for line, figure in findings.get(experiment.name, ())
                ],
            }
            for experiment in experiments
        },
        "unfinished": list(unfinished),
        "failed": {part: why.removeprefix("failed, ") for part, why in unfinished.items() if why},
        "versions": versions(),
    }
    write_json(folder / RESULTS, content)
    sections = [_section(scale, e, findings.get(e.name)) for e in experiments]
    page = rendered(
        "study",
        title=f"{scale.name}: the paper's experiments",
        about=[NOTE, scale.about] if scale.about else [NOTE],
        unfinished=[f"{part}: {why}" if why else part for part, why in unfinished.items()],
        sections=sections,
    )
    return sections, [folder / RESULTS, write_page(folder / PAGE, page)]


def _section(scale: Scale, experiment: Experiment, found: Findings | None) -> Section:
    if found is None:
        return Section(experiment.title, [experiment.about, "Unfinished."])
    is_warm = any(line.temperature for line in experiment.lines)
    plot = _over_temperature(scale, found) if is_warm else ""
    return Section(
        experiment.title, [experiment.about], plot, [line.cells(figure) for line, figure in found]
    )


def _over_temperature(scale: Scale, findings: Findings) -> str:
    """Errors over T, a panel for each width: their errors have no common scale."""
    panels = {}
    for width in scale.widths:
        mine = [(line, figure) for line, figure in findings if line.part == width_part(width)]
        warm = [(line.temperature, figure) for line, figure in mine if line.temperature]
        levels = [
            Line("on labels", LABELS, [figure]) for line, figure in mine if line.variant == LABELS
        ]
        curve = Line("distilled", DISTILLED, [figure for _, figure in warm], [t for t, _ in warm])
        panels[f"2 x {width} units"] = [*levels, curve]
    title = "Test errors over temperature"
    return over_choice(title, panels, choice="temperature T", figure="test errors")
