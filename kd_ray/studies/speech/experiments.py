"""The questions of the experiment with speech as tables, and the study that answers them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from kd_ray.files import to_path
from kd_ray.pipeline import Where
from kd_ray.report.html import Section
from kd_ray.report.summary import Figure
from kd_ray.runs.variants import DISTILLED, LABELS
from kd_ray.studies.paper.answer import write_answer
from kd_ray.studies.paper.experiments import Experiment, picked_of
from kd_ray.studies.paper.measures import (
    BEST,
    PERCENT,
    PaperLine,
    Results,
    ensemble_metric,
    metric,
    share_gained,
)
from kd_ray.studies.paper.reproduction import LEAVING, NOTE
from kd_ray.studies.speech.work import (
    ALL_STOPPED,
    FEW,
    FEW_STOPPED,
    NEW_SPEAKER,
    OFFICIAL,
    OURS,
    REGULARIZER,
    Speech,
    SpeechScale,
    searching,
)
from kd_ray.studies.study import Answer, Study, StudyPart, check_overrides


def speech(
    scale: SpeechScale,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    only: Sequence[str] = (),
    **where: Unpack[Where],
) -> Study:
    """The study of the experiment; arguments and errors are those of `paper.reproduction`."""
    check_overrides(overrides, OURS)
    work = Speech(scale, overrides, to_path(runs).absolute() / scale.name, where)
    every = experiments(work)
    picked = picked_of(every, only)
    names = [each.name for each in picked]

    parts = []
    for protocol, about in PROTOCOLS.items():
        if users := tuple(n for n in names if protocol in NEEDS[n]):
            parts.append(
                StudyPart(
                    searching(protocol),
                    f"ten nets and one distilled from them, {about}",
                    work.search(protocol),
                    ("teach", "label", "distill"),
                    partial(work.after_search, protocol),
                    users,
                )
            )
    if REGULARIZER in names:
        for name, run in work.regularized().items():
            stages = ("label", "distill") if name == FEW else ("distill",)
            parts.append(StudyPart(name, ABOUT[name], run, stages, questions=(REGULARIZER,)))
    return Study(work.folder, parts, partial(_answer, work, picked, every), LEAVING)


PROTOCOLS = {
    OFFICIAL: "the official test rows",
    NEW_SPEAKER: "tested on a speaker that nobody was trained on",
}
NEEDS = {OFFICIAL: (OFFICIAL,), NEW_SPEAKER: (NEW_SPEAKER,), REGULARIZER: (OFFICIAL,)}
ABOUT = {
    FEW: "students of few frames, to the last epoch",
    FEW_STOPPED: "the same, the epoch chosen by the validation rows",
    ALL_STOPPED: "students of all frames on labels, the epoch chosen by the validation rows",
}


def experiments(work: Speech) -> list[Experiment]:
    """The paper's questions as tables."""
    scale, members = work.scale, work.recipe(searching(OFFICIAL)).teacher
    count = members.members if members else 0
    note = (
        "The members are trained for fewer epochs than the students. T and the weight of the "
        "labels are those of the best student on the validation rows; test rows choose nothing. "
        "The paper's figures are of another, larger task."
    )
    few = f"{100 * scale.few:g} % of the frames"
    regular = [
        PaperLine(f"{about}: right", part, name, metric(part, name, "accuracy"), PERCENT, paper)
        for about, part, name, paper in (
            ("all frames, labels, to the last epoch", OFFICIAL, LABELS, 58.9),
            ("all frames, labels, stopped early", ALL_STOPPED, LABELS, None),
            ("all frames, soft targets, to the last epoch", OFFICIAL, DISTILLED, None),
            (f"{few}, labels, to the last epoch", FEW, LABELS, None),
            (f"{few}, labels, stopped early", FEW_STOPPED, LABELS, 44.5),
            (f"{few}, soft targets, to the last epoch", FEW, DISTILLED, 57.0),
            (f"{few}, soft targets, stopped early", FEW_STOPPED, DISTILLED, None),
        )
    ]
    return [
        Experiment(OFFICIAL, "Ten nets into one", note, _lines(work, OFFICIAL, count)),
        Experiment(
            NEW_SPEAKER,
            f"Ten nets into one, tested on {work.scale.speaker} alone",
            f"Nobody was trained on this speaker. {note}",
            _lines(work, NEW_SPEAKER, count),
        ),
        Experiment(
            REGULARIZER,
            "Soft targets as a regularizer",
            f"Table 5 of the paper. Students of few frames learn from soft targets alone, at T = "
            f"{scale.few_temperature:g}, and see each in {scale.few_views} views, moved by up to "
            f"{scale.moved} frames in time, as the teachers have labelled them; those of all "
            "frames as above. Stopping early chooses the epoch by the validation rows.",
            regular,
        ),
    ]


def _lines(work: Speech, part: str, count: int) -> list[PaperLine]:
    search, is_paper = searching(part), part == OFFICIAL
    lines = []
    for name, what, papers in (
        ("accuracy", "frames right", (58.9, 61.1, 60.8)),
        ("word_error_rate", "words wrong", (10.9, 10.7, 10.7)),
    ):
        one, ten, distilled = papers if is_paper else (None, None, None)
        for about, where, variant_name, measure, paper in (
            ("one of the nets", search, "", metric(search, "", name), one),
            (f"{count} nets averaged", part, DISTILLED, ensemble_metric(part, name), ten),
            ("one net distilled", part, DISTILLED, metric(part, DISTILLED, name), distilled),
            ("the same net on labels", part, LABELS, metric(part, LABELS, name), None),
        ):
            lines.append(
                PaperLine(f"{about}: {what}", where, variant_name, measure, PERCENT, paper)
            )
    kept = share_gained(
        metric(search, "", "accuracy"),
        ensemble_metric(part, "accuracy"),
        metric(part, DISTILLED, "accuracy"),
    )
    about = "of their gain over one, in frames, kept by the net distilled"
    lines.append(PaperLine(about, part, DISTILLED, kept, PERCENT, 86 if is_paper else None))

    def choice(at: int, results: Results) -> Figure | None:
        best = work.chosen(results[search])
        return None if best is None else Figure.of([best[at]])

    for at, (about, unit, paper) in enumerate((("T", BEST, 2), ("weight of the labels", "", 0.5))):
        own = paper if is_paper else None
        lines.append(PaperLine(f"{about}, chosen", part, DISTILLED, partial(choice, at), unit, own))
    return lines


def _answer(
    work: Speech,
    picked: Sequence[Experiment],
    every: Sequence[Experiment],
    unfinished: Mapping[str, str],
) -> Answer:
    results = work.results()
    findings = {e.name: found for e in every if (found := e.findings(results)) is not None}
    shown = [e for e in every if e in picked or e.name in findings]
    sections = {
        e.name: Section(
            e.title,
            [e.about] if e.name in findings else [e.about, "Unfinished."],
            rows=[line.cells(figure) for line, figure in findings.get(e.name, ())],
        )
        for e in shown
    }
    about = [NOTE, work.scale.about] if work.scale.about else [NOTE]
    return write_answer(work.folder, about, shown, picked, findings, sections, unfinished)
