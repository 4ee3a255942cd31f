"""What a reproduction has come to so far, as `results.json` and as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_ray.files import write_json
from kd_ray.report.html import Section, rendered, write_page
from kd_ray.studies.paper.experiments import Experiment, Findings
from kd_ray.studies.study import Answer
from kd_ray.versions import versions

RESULTS, PAGE = "results.json", "report.html"


def write_answer(
    folder: Path,
    about: Sequence[str],
    shown: Sequence[Experiment],
    picked: Sequence[Experiment],
    findings: Mapping[str, Findings],
    sections: Mapping[str, Section],
    unfinished: Mapping[str, str],
    title: str = "the paper's experiments",
) -> Answer:
    """Writes both files; the answer has the sections of what is picked and finished.

    Args:
        folder: of the study; its name is the study's.
        about: paragraphs above the page; behind the first one, how the scale differs.
        shown: experiments on the page.
        picked: those that were asked for.
        findings: of those that are finished, by name.
        sections: of those that are shown, by name.
        unfinished: part -> why it is not finished, empty where it was not come to.
        title: what the page is called, behind the folder's name.
    """
    done = all(e.name in findings for e in shown) and not unfinished
    content = {
        "name": folder.name,
        "status": "finished" if done else "unfinished",
        "about": " ".join(about[1:]),
        "experiments": {
            e.name: {
                "title": e.title,
                "status": "finished" if e.name in findings else "unfinished",
                "figures": [line.table(figure) for line, figure in findings.get(e.name, ())],
            }
            for e in shown
        },
        "unfinished": list(unfinished),
        "failed": {part: why.removeprefix("failed, ") for part, why in unfinished.items() if why},
        "versions": versions(),
    }
    write_json(folder / RESULTS, content)
    page = rendered(
        "study",
        title=f"{folder.name}: {title}",
        about=about,
        unfinished=[f"{part}: {why}" if why else part for part, why in unfinished.items()],
        sections=[sections[e.name] for e in shown],
    )
    files = [folder / RESULTS, write_page(folder / PAGE, page)]
    return Answer([sections[e.name] for e in picked if e.name in findings], files)
