"""The experiments as tables: lines to be measured, and what the paper measured."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from kd_ray.catalog import pick
from kd_ray.config import Recipe
from kd_ray.report.summary import Figure
from kd_ray.runs.variants import DISTILLED, LABELS, SMOOTHING
from kd_ray.studies.paper.bias import WAYS
from kd_ray.studies.paper.measures import (
    BEST,
    BIAS,
    ERRORS,
    PERCENT,
    Measure,
    PaperLine,
    Results,
    corrected,
    ensemble_metric,
    metric,
    share_gained,
)
from kd_ray.studies.paper.parts import (
    ENSEMBLE,
    FEW,
    ONE_MEMBER,
    STOPPED,
    UNLABELLED,
    Part,
    Scale,
    students_at,
    width_part,
)

Findings = Sequence[tuple[PaperLine, Figure]]


@dataclass(frozen=True)
class Experiment:
    """What the paper asked, and the lines of figures that answer; `name` is that after `--only`."""

    name: str
    title: str
    about: str
    lines: Sequence[PaperLine]

    @property
    def students(self) -> dict[str, list[str]]:
        """Part -> variants that its lines need."""
        needed: dict[str, list[str]] = {}
        for line in self.lines:
            variants = needed.setdefault(line.part, [])
            if line.variant and line.variant not in variants:
                variants.append(line.variant)
        return needed

    def findings(self, results: Results) -> Findings | None:
        """Its lines with their figures; None where a student is missing."""
        needed = self.students.items()
        if any(results[part].lacking & {"", *variants} for part, variants in needed):
            return None
        figures = [(line, line.measure(results)) for line in self.lines]
        return [(line, figure) for line, figure in figures if figure is not None]


def experiments(scale: Scale, recipe: Recipe, every: Sequence[Part]) -> list[Experiment]:
    """The experiments of all parts in the paper's order; `recipe` is that of the first part."""
    absent, present = (part.name for part in every if part.corrected)
    lines: dict[str, Iterable[PaperLine]] = {
        "baselines": _baselines(scale.first, recipe.objective.temperature),
        "temperature": _temperature(scale, recipe.objective.temperature),
        "no-3s": _absent(absent, " and ".join(f"{name}s" for name in scale.absent)),
        "7s-8s": _present(present, scale.present),
        "regularizer": _regularizer(scale),
        "ensemble": _ensemble(scale),
        "unlabelled": [
            PaperLine(about, part, variant, metric(part, variant))
            for about, part, variant in (
                ("a tenth of the labels, nothing else", UNLABELLED, LABELS),
                ("a tenth of the labels, soft targets of all rows", UNLABELLED, DISTILLED),
                ("all labels", scale.first, LABELS),
                ("all labels, soft targets of all rows", scale.first, DISTILLED),
            )
        ],
    }
    return [
        Experiment(name, title, about, list(lines[name]))
        for name, (title, about) in EXPERIMENTS.items()
    ]


def _baselines(part: str, own: float) -> Iterator[PaperLine]:
    cold, coldest = next(iter(students_at(own).items()))
    variants: dict[str, tuple[str, float | None]] = {
        "": ("teacher", 67),
        LABELS: ("student on labels", 146),
        SMOOTHING: ("student on smoothed labels", None),
        cold: (f"distilled at T = {coldest:g}", None),
        DISTILLED: (f"distilled at T = {own:g}", 74),
    }
    for variant, (about, paper) in variants.items():
        yield PaperLine(about, part, variant, metric(part, variant), ERRORS, paper)
    labels, teacher, distilled = (metric(part, variant) for variant in (LABELS, "", DISTILLED))
    closed = share_gained(labels, teacher, distilled, falling=True)
    about = "of the gap between labels and teacher closed"
    yield PaperLine(about, part, DISTILLED, closed, PERCENT, 91)


def _temperature(scale: Scale, own: float) -> Iterator[PaperLine]:
    for width in scale.widths:
        part, units = width_part(width), f"2 x {width} units"
        papers = {LABELS: 146, DISTILLED: 74} if width == 800 else {}
        students = {LABELS: None, **students_at(own)}
        for variant, t in students.items():
            about = f"{units}, {'labels' if t is None else f'T = {t:g}'}"
            errors = metric(part, variant)
            yield PaperLine(about, part, variant, errors, ERRORS, papers.get(variant), t)
        yield PaperLine(f"{units}, best T", part, "", _best_temperature(part, own), BEST)


def _best_temperature(part: str, own: float) -> Measure:
    warm = {t: metric(part, variant) for variant, t in students_at(own).items()}
    return lambda results: Figure.of([min(warm, key=lambda t: warm[t](results).mean)])


def _absent(part: str, names: str) -> Iterator[PaperLine]:
    def right(kept: Mapping[str, Any]) -> float:
        return 100 * (1 - float(kept["class_errors"]) / float(kept["class_rows"]))

    return _corrections(
        part,
        ("bias", _bias(0), BIAS, {"test": 3.5}),
        ("errors in all", itemgetter("errors"), ERRORS, {"none": 206, "test": 109}),
        (f"errors on {names}", itemgetter("class_errors"), ERRORS, {"none": 133, "test": 14}),
        (f"of the {names} right", right, PERCENT, {"none": 86.8, "test": 98.6}),
    )


def _present(part: str, names: Sequence[str]) -> Iterator[PaperLine]:
    def wrong(kept: Mapping[str, Any]) -> float:
        return float(100 * kept["errors"] / kept["rows"])

    return _corrections(
        part,
        *((f"bias of {name}", _bias(at), BIAS, {"test": -7.6}) for at, name in enumerate(names)),
        ("wrong in all", wrong, PERCENT, {"none": 47.3, "test": 13.2}),
    )


Value = Callable[[Mapping[str, Any]], float]


def _bias(at: int) -> Value:
    return lambda kept: float(kept["biases"][at])


def _corrections(
    part: str, *values: tuple[str, Value, str, Mapping[str, float]]
) -> Iterator[PaperLine]:
    """Lines of students whose biases are corrected in each way; without correction, no biases.

    A value is what is measured, how, its unit, and way -> the paper's figure.
    """
    for way, name in WAYS.items():
        for about, value, unit, papers in values:
            if way != "none" or unit != BIAS:
                measure = corrected(part, way, value)
                yield PaperLine(f"{name}: {about}", part, DISTILLED, measure, unit, papers.get(way))


def _regularizer(scale: Scale) -> Iterator[PaperLine]:
    few = f"{100 * scale.few:g} % of the rows"
    lines: Sequence[tuple[str, str, str, float | None]] = (
        ("all rows, labels", scale.first, LABELS, 58.9),
        (f"{few}, labels, stopped early", STOPPED, LABELS, 44.5),
        (f"{few}, labels, to the last epoch", FEW, LABELS, None),
        (f"{few}, soft targets, to the last epoch", FEW, DISTILLED, 57.0),
        (f"{few}, soft targets, stopped early", STOPPED, DISTILLED, None),
    )
    for about, part, variant, paper in lines:
        accuracy = metric(part, variant, "accuracy")
        yield PaperLine(f"{about}: right", part, variant, accuracy, PERCENT, paper)


def _ensemble(scale: Scale) -> Iterator[PaperLine]:
    one, same = "one net distilled from it", "the same net distilled from the first member alone"
    usual = "student on labels at a rate that falls"
    for name, what, unit in (("accuracy", "right", PERCENT), ("errors", "errors", ERRORS)):
        for about, part, variant, measure, paper in (
            ("one member", ENSEMBLE, "", metric(ENSEMBLE, "", name), 58.9),
            (f"ensemble of {scale.members}", ENSEMBLE, "", ensemble_metric(ENSEMBLE, name), 61.1),
            (one, ENSEMBLE, DISTILLED, metric(ENSEMBLE, DISTILLED, name), 60.8),
            ("the first member", ONE_MEMBER, "", ensemble_metric(ONE_MEMBER, name), None),
            (same, ONE_MEMBER, DISTILLED, metric(ONE_MEMBER, DISTILLED, name), None),
            (usual, scale.first, LABELS, metric(scale.first, LABELS, name), None),
        ):
            known = paper if unit == PERCENT else None
            yield PaperLine(f"{about}: {what}", part, variant, measure, unit, known)
    member = metric(ENSEMBLE, "", "accuracy")
    usual_student = metric(scale.first, LABELS, "accuracy")
    for over, base, about, part, paper in (
        ("a member", member, one, ENSEMBLE, 86),
        ("a member", member, same, ONE_MEMBER, None),
        (f"a {usual}", usual_student, one, ENSEMBLE, None),
    ):
        student = metric(part, DISTILLED, "accuracy")
        kept = share_gained(base, ensemble_metric(ENSEMBLE, "accuracy"), student)
        about_it = f"of the ensemble's gain over {over}, kept by {about}"
        yield PaperLine(about_it, part, DISTILLED, kept, PERCENT, paper)


EXPERIMENTS: Mapping[str, tuple[str, str]] = {
    "baselines": (
        "Distilling beside its baselines",
        "A student without regularization learns from plain images; its teacher saw shifted ones. "
        "Beside it the same student on labels, on smoothed labels, and with soft targets at T = 1.",
    ),
    "temperature": (
        "Temperature against width",
        "The paper: with 300 units or more in each layer all temperatures above 8 gave about the "
        "same; with 30 units, 2.5 to 4 were clearly better than higher or lower ones.",
    ),
    "no-3s": (
        "A transfer set without 3s",
        "The student never saw a 3. Its bias for 3 is then raised: once so that the mean predicted "
        "mass of 3 on all training images is the known share of 3s, which needs no label and no "
        "test image; and once, as in the paper, tuned on the test split itself, so that figure is "
        "of the very rows that chose it.",
    ),
    "7s-8s": (
        "A transfer set of 7s and 8s alone",
        "The student saw nothing but 7s and 8s. The biases of these two are then lowered, in the "
        "same two ways.",
    ),
    "regularizer": (
        "Soft targets as a regularizer",
        "A few rows with labels alone, and with soft targets; to the last epoch, and stopped at "
        "the best epoch by a tenth of these rows. The paper did it with speech: its figures are "
        "frame accuracies of another task, to be compared with each other.",
    ),
    "ensemble": (
        "An ensemble, and one net distilled from it",
        "The members are students on labels with different seeds, trained with Adam at a constant "
        "rate. Beside the net distilled from all of them stands the same net distilled from the "
        "first one alone, which tells what soft targets as such are worth. The paper's figures are "
        "of speech: frame accuracies of another task.",
    ),
    "unlabelled": (
        "Unlabelled transfer data",
        "Nine labels of ten are hidden: these rows take part in the soft term alone. On labels, "
        "only the tenth that has them is learned from. The paper has no figures for it.",
    ),
}
"""Name -> title, and what a reader should know."""


def picked_of(every: Sequence[Experiment], only: Sequence[str]) -> list[Experiment]:
    """Those of some names in the order of all, or all for none.

    Raises:
        UnknownNameError: there is no such experiment.
    """
    named = {experiment.name: experiment for experiment in every}
    wanted = [pick("experiment", named, name) for name in only] or every
    return [experiment for experiment in every if experiment in wanted]
