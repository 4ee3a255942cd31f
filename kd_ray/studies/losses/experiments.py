"""Losses beside Hinton's as tables, at their papers' settings and searched, and their study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Unpack

from kd_ray.files import to_path
from kd_ray.pipeline import Where
from kd_ray.report.html import Section
from kd_ray.report.plots import error_dots
from kd_ray.report.summary import Figure
from kd_ray.result import TEACHER
from kd_ray.runs.variants import LABELS
from kd_ray.studies.losses.work import (
    CIFAR,
    OURS,
    PUBLISHED,
    Losses,
    LossScale,
    Setting,
    published_name,
)
from kd_ray.studies.paper.answer import write_answer
from kd_ray.studies.paper.experiments import Experiment, Findings, picked_of
from kd_ray.studies.paper.measures import PERCENT, POINTS, PaperLine, PartResults
from kd_ray.studies.study import Answer, Study, StudyPart, check_overrides
from kd_ray.training.objectives import HINTON

LEAVING = ("as published %", "gain in papers", "chosen")
NOTE = (
    "Accuracy on the test split, mean over seeds with the sample standard deviation; a gain is "
    "over Hinton's loss, seed by seed, in points. In the papers: on CIFAR-100, mean of seven pairs "
    "of networks of one family, over a plain distillation at T = 4 whose weight nobody searched."
)
ABOUT = (
    "Each loss once as its paper has it, at the recipe's own learning rate, and once with T, c and "
    "learning rate of the best of {trials} trials of the first seed on the validation rows: the "
    "paper's setting, and others at the same places of each loss's ranges. The test split chooses "
    "nothing."
)


def losses(
    scale: LossScale,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    only: Sequence[str] = (),
    **where: Unpack[Where],
) -> Study:
    """The study of the experiment; arguments and errors are those of `paper.reproduction`.

    `data.root`, or KD_RAY_DATA, is the folder of MNIST and of the folder `cifar10-jpeg`.
    """
    check_overrides(overrides, OURS)
    folder = to_path(runs).absolute() / scale.name
    works = {data: Losses(scale, data, overrides, folder, where) for data in scale.bases}
    every = [_experiment(work) for work in works.values()]
    picked = picked_of(every, only)
    parts = [
        StudyPart(
            work.search_part,
            f"a teacher, its transfer set and {scale.trials} trials of each loss",
            work.search(),
            ("teach", "label", "distill"),
            work.after_search,
            (data,),
        )
        for data, work in works.items()
        if data in {each.name for each in picked}
    ]
    return Study(folder, parts, partial(_answer, works, picked, every), LEAVING)


def _experiment(work: Losses) -> Experiment:
    name = "CIFAR-10, as JPEGs" if work.data == CIFAR else "MNIST"
    return Experiment(work.data, name, ABOUT.format(trials=work.scale.trials), [])


@dataclass(frozen=True)
class Found:
    """What became of a loss, on the test split; gains are None of what they are compared with."""

    loss: str
    chosen: Setting
    searched: Figure
    published: Figure | None
    searched_gain: Figure | None
    published_gain: Figure | None


def found_of(work: Losses, search: PartResults, final: PartResults) -> list[Found]:
    """Every loss and the labels, in the order of the catalogue; nothing may be missing."""
    best = work.chosen(search)
    assert best is not None

    def right(variant: str) -> Figure:
        students = sorted(final.of(variant), key=lambda student: student.seed)
        return Figure.of([100 * float(student.metrics["accuracy"]) for student in students])

    found = []
    plain = {
        "searched": right(work.searched_name(HINTON, best[HINTON])),
        "published": right(published_name(HINTON)),
    }
    for loss, setting in best.items():
        searched = right(work.searched_name(loss, setting))
        published = right(published_name(loss)) if loss in PUBLISHED else None
        is_plain = loss == HINTON
        found.append(
            Found(
                loss,
                setting,
                searched,
                published,
                None if is_plain else gain(searched, plain["searched"]),
                None if is_plain or published is None else gain(published, plain["published"]),
            )
        )
    return found


def gain(of: Figure, over: Figure) -> Figure:
    """Differences seed by seed, as both began from the same weights and saw the same batches."""
    return Figure.of([a - b for a, b in zip(of.values, over.values, strict=True)])


def lines_of(work: Losses, found: Sequence[Found]) -> Findings:
    """Every figure of `results.json`; at last the mean gain of all losses but Hinton's."""
    findings: list[tuple[PaperLine, Figure]] = []

    def line(
        about: str, variant: str, figure: Figure | None, unit: str, paper: float | None
    ) -> None:
        if figure is not None:
            known = PaperLine(about, work.data, variant, lambda results: figure, unit, paper)
            findings.append((known, figure))

    for each in found:
        name, paper = each.loss, PUBLISHED[each.loss].gain if each.loss in PUBLISHED else None
        chosen = work.searched_name(name, each.chosen)
        line(f"{name}, searched: right", chosen, each.searched, PERCENT, None)
        line(f"{name}, as published: right", published_name(name), each.published, PERCENT, None)
        line(f"{name}, searched: gain over {HINTON}", chosen, each.searched_gain, POINTS, paper)
        gained = each.published_gain
        line(
            f"{name}, as published: gain over {HINTON}", published_name(name), gained, POINTS, paper
        )
    others = [each for each in found if each.loss in PUBLISHED and each.loss != HINTON]
    papers = mean(PUBLISHED[each.loss].gain for each in others)
    for about, gains in (
        ("as published", [each.published_gain for each in others]),
        ("searched", [each.searched_gain for each in others]),
    ):
        means = Figure.of([figure.mean for figure in gains if figure is not None])
        line(f"other losses, {about}: mean gain over {HINTON}", "", means, POINTS, round(papers, 2))
    return findings


def rows_of(found: Sequence[Found]) -> list[dict[str, str]]:
    """The table: a line for each loss, and one for labels alone."""

    def shown(figure: Figure | None, sign: str = "") -> str:
        if figure is None:
            return "-"
        plus = sign if figure.mean >= 0 else ""
        return plus + figure.shown(2)

    rows = []
    for each in found:
        published = PUBLISHED.get(each.loss)
        is_other = published is not None and each.loss != HINTON
        rows.append(
            {
                "loss": each.loss,
                "as published %": shown(each.published),
                "searched %": shown(each.searched),
                "gain as published": shown(each.published_gain, "+"),
                "gain searched": shown(each.searched_gain, "+"),
                "gain in papers": f"+{published.gain:.2f}" if published and is_other else "-",
                "chosen": each.chosen.shown(each.loss),
            }
        )
    return rows


def sentence(found: Sequence[Found]) -> str:
    """What is left of the other losses' gain when T and c of the plain one are searched as well."""
    others = [each for each in found if each.published_gain and each.searched_gain]
    papers = [PUBLISHED[each.loss].gain for each in others]
    as_published = [each.published_gain.mean for each in others if each.published_gain]
    searched = [each.searched_gain.mean for each in others if each.searched_gain]
    plain = next(each for each in found if each.loss == HINTON)
    labels = next(each for each in found if each.loss == LABELS)
    return (
        f"Over {HINTON} the {len(others)} others gain {mean(papers):+.2f} points in their papers, "
        f"{mean(as_published):+.2f} here at their papers' settings, and {mean(searched):+.2f} "
        f"when everyone is searched; {HINTON} searched is "
        f"{gain(plain.searched, labels.searched).mean:+.2f} points from labels."
    )


def _answer(
    works: Mapping[str, Losses],
    picked: Sequence[Experiment],
    every: Sequence[Experiment],
    unfinished: Mapping[str, str],
) -> Answer:
    findings: dict[str, Findings] = {}
    sections: dict[str, Section] = {}
    for experiment in every:
        work = works[experiment.name]
        search, final = work.results()
        if final is None or final.lacking:
            sections[experiment.name] = Section(experiment.title, [experiment.about, "Unfinished."])
            continue
        found = found_of(work, search, final)
        findings[experiment.name] = lines_of(work, found)
        wrong = {each.loss: [100 - right for right in each.searched.values] for each in found}
        taught = [100 - 100 * float(each.metrics["accuracy"]) for each in search.of("", TEACHER)]
        sections[experiment.name] = Section(
            experiment.title,
            [experiment.about, sentence(found)],
            error_dots("Test errors, searched", wrong, taught, unit="% wrong on the test split"),
            rows_of(found),
        )
    shown = [e for e in every if e in picked or e.name in findings]
    work = next(iter(works.values()))
    about = [NOTE, work.scale.about] if work.scale.about else [NOTE]
    title = "the choice of loss"
    return write_answer(
        work.folder, about, shown, picked, findings, sections, unfinished, title=title
    )
