"""What the experiments come to: figures over seeds, each beside the paper's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_ray.report.summary import Figure
from kd_ray.result import STUDENT, TEACHER, Result
from kd_ray.runs.variants import DISTILLED, LABELS, SMOOTHING
from kd_ray.studies.paper.corrected import WAYS
from kd_ray.studies.paper.experiments import TEMPERATURES, Experiment, students_at
from kd_ray.studies.paper.scales import ENSEMBLE, FEW, ONE_MEMBER, STOPPED, Scale, width_part

ERRORS, PERCENT, BIAS, BEST = "errors", "%", "added to the logit", "T"


@dataclass(frozen=True)
class PartResults:
    """What a part has left behind so far.

    Attributes:
        results: the records of its artefacts.
        lacking: variants some of whose students are missing; "" if it is a teacher or the set.
        corrected: seed -> way -> figures, of students whose biases were corrected.
    """

    results: Sequence[Result]
    lacking: frozenset[str] = frozenset()
    corrected: Mapping[int, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def has(self, variants: Sequence[str]) -> bool:
        """Whether everything of these variants is there."""
        return not self.lacking & {"", *variants}

    def of(self, variant: str, kind: str = STUDENT) -> list[Result]:
        """Records of the seeds of a variant; or of all teachers, for "" and `TEACHER`."""
        return [r for r in self.results if r.kind == kind and r.variant == variant]

    def figure(self, variant: str, metric: str, kind: str = STUDENT) -> Figure:
        """A metric on the test split over seeds; shares in percent."""
        values = [float(r.metrics[metric]) for r in self.of(variant, kind)]
        scale = 100.0 if metric in ("accuracy", "teacher_accuracy") else 1.0
        return Figure.of([scale * value for value in values])

    def corrections(self, way: str, figure: Callable[[Mapping[str, Any]], float]) -> Figure:
        """A figure of corrected students over seeds."""
        return Figure.of([figure(ways[way]) for ways in self.corrected.values()])


Results = Mapping[str, PartResults]


@dataclass(frozen=True)
class Finding:
    """One line of an experiment's table.

    Attributes:
        experiment: its name.
        about: what was measured.
        figure: over seeds.
        unit: `ERRORS`, `PERCENT`, `BIAS` or `BEST`.
        paper: the paper's own figure, or None.
        part: run folder.
        variant: of the student, or "".
        temperature: T of its soft term, where a plot asks for it.
    """

    experiment: str
    about: str
    figure: Figure
    unit: str
    paper: float | None = None
    part: str = ""
    variant: str = ""
    temperature: float | None = None

    def cells(self) -> dict[str, str]:
        """Heading -> text."""
        digits = 1 if self.unit != PERCENT else 2
        if self.unit == ERRORS and len(self.figure.values) == 1:
            digits = 0
        return {
            "": self.about,
            "measured": self.figure.shown(digits),
            "paper": "-" if self.paper is None else f"{self.paper:g}",
            "unit": self.unit,
            "seeds": str(len(self.figure.values)),
        }

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "about": self.about,
            "unit": self.unit,
            "mean": self.figure.mean,
            "spread": self.figure.spread,
            "values": list(self.figure.values),
            "paper": self.paper,
            "part": self.part,
            "variant": self.variant,
            "temperature": self.temperature,
        }


def findings(
    scale: Scale, experiments: Sequence[Experiment], results: Results
) -> dict[str, list[Finding]]:
    """Experiment -> its lines, of those whose students are all there."""
    return {
        experiment.name: list(MEASURES[experiment.name](scale, experiment, results))
        for experiment in experiments
        if all(results[part].has(variants) for part, variants in experiment.students.items())
    }


def _baselines(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    part, of = scale.first, results[scale.first]
    labels, teacher = of.figure(LABELS, "errors"), of.figure("", "errors", TEACHER)
    distilled = of.figure(DISTILLED, "errors")
    yield Finding(experiment.name, "teacher", teacher, ERRORS, 67, part)
    yield Finding(experiment.name, "student on labels", labels, ERRORS, 146, part, LABELS)
    for variant in experiment.students[part]:
        if variant not in (LABELS, DISTILLED):
            cold = "student on smoothed labels"
            about = cold if variant == SMOOTHING else f"distilled at T = {TEMPERATURES[0]:g}"
            figure = of.figure(variant, "errors")
            yield Finding(experiment.name, about, figure, ERRORS, None, part, variant)
    about = f"distilled at T = {TEMPERATURES[-1]:g}"
    yield Finding(experiment.name, about, distilled, ERRORS, 74, part, DISTILLED)
    if labels.mean > teacher.mean:
        gap = [
            100 * (labels.mean - errors) / (labels.mean - teacher.mean)
            for errors in distilled.values
        ]
        about = "of the gap between labels and teacher closed"
        yield Finding(experiment.name, about, Figure.of(gap), PERCENT, 91, part, DISTILLED)


def _temperature(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    for width in scale.widths:
        part = width_part(width)
        warm: dict[float, float] = {}
        for variant in experiment.students[part]:
            temperature = students_at(TEMPERATURES[-1]).get(variant)
            figure = results[part].figure(variant, "errors")
            what = "labels" if temperature is None else f"T = {temperature:g}"
            known = {LABELS: 146, DISTILLED: 74} if width == 800 else {}
            paper = known.get(variant)
            about = f"2 x {width} units, {what}"
            yield Finding(experiment.name, about, figure, ERRORS, paper, part, variant, temperature)
            if temperature is not None:
                warm[temperature] = figure.mean
        best = Figure.of([min(warm, key=warm.__getitem__)])
        yield Finding(experiment.name, f"2 x {width} units, best T", best, BEST, None, part)


def _absent(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    ((part, _),) = experiment.students.items()
    names = " and ".join(f"{name}s" for name in scale.absent)
    papers = {"none": (206, 133, 86.8), "mass": (None, None, None), "test": (109, 14, 98.6)}
    for way, about in WAYS.items():
        in_all, on_class, right = papers[way]
        of = results[part].corrections
        if way != "none":
            bias = of(way, lambda found: float(found["biases"][0]))
            paper = 3.5 if way == "test" else None
            yield Finding(experiment.name, f"{about}: bias", bias, BIAS, paper, part, DISTILLED)
        for what, figure, unit, paper in (
            ("errors in all", of(way, lambda found: found["errors"]), ERRORS, in_all),
            (f"errors on {names}", of(way, lambda found: found["class_errors"]), ERRORS, on_class),
            (f"of the {names} right", of(way, _class_right), PERCENT, right),
        ):
            yield Finding(experiment.name, f"{about}: {what}", figure, unit, paper, part, DISTILLED)


def _present(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    ((part, _),) = experiment.students.items()
    of = results[part].corrections
    papers = {"none": 47.3, "mass": None, "test": 13.2}
    for way, about in WAYS.items():
        if way != "none":
            for number, name in enumerate(scale.present):
                bias = of(way, lambda found, at=number: float(found["biases"][at]))  # type: ignore[misc]
                paper = -7.6 if way == "test" else None
                about_bias = f"{about}: bias of {name}"
                yield Finding(experiment.name, about_bias, bias, BIAS, paper, part, DISTILLED)
        wrong = of(way, lambda found: 100 * found["errors"] / found["rows"])
        about_wrong = f"{about}: wrong in all"
        yield Finding(experiment.name, about_wrong, wrong, PERCENT, papers[way], part, DISTILLED)


def _regularizer(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    few = f"{100 * scale.few:g} % of the rows"
    lines: Sequence[tuple[str, str, str, float | None]] = (
        ("all rows, labels", scale.first, LABELS, 58.9),
        (f"{few}, labels, stopped early", STOPPED, LABELS, 44.5),
        (f"{few}, labels, to the last epoch", FEW, LABELS, None),
        (f"{few}, soft targets, to the last epoch", FEW, DISTILLED, 57.0),
        (f"{few}, soft targets, stopped early", STOPPED, DISTILLED, None),
    )
    for about, part, variant, paper in lines:
        figure = results[part].figure(variant, "accuracy")
        yield Finding(experiment.name, f"{about}: right", figure, PERCENT, paper, part, variant)


def _ensemble(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    def of(part: str, variant: str, kind: str = STUDENT) -> Callable[[str], Figure]:
        return lambda metric: results[part].figure(variant, metric, kind)

    def teachers_of(part: str) -> Callable[[str], Figure]:
        # Every student has measured the same teachers on the same rows.
        taught = of(part, DISTILLED)
        return lambda metric: Figure.of([taught(f"teacher_{metric}").values[0]])

    member, ensemble, distilled = (
        of(ENSEMBLE, "", TEACHER),
        teachers_of(ENSEMBLE),
        of(ENSEMBLE, DISTILLED),
    )
    alone, annealed = of(ONE_MEMBER, DISTILLED), of(scale.first, LABELS)
    one, same = "one net distilled from it", "the same net distilled from the first member alone"
    usual = "student on labels at a rate that falls"
    for metric, what, unit in (("accuracy", "right", PERCENT), ("errors", "errors", ERRORS)):
        for about, figure, paper, part, variant in (
            ("one member", member, 58.9, ENSEMBLE, ""),
            (f"ensemble of {scale.members}", ensemble, 61.1, ENSEMBLE, ""),
            (one, distilled, 60.8, ENSEMBLE, DISTILLED),
            ("the first member", teachers_of(ONE_MEMBER), None, ONE_MEMBER, ""),
            (same, alone, None, ONE_MEMBER, DISTILLED),
            (usual, annealed, None, scale.first, LABELS),
        ):
            known = paper if unit == PERCENT else None
            about_it = f"{about}: {what}"
            yield Finding(experiment.name, about_it, figure(metric), unit, known, part, variant)
    reached = ensemble("accuracy").mean
    for over, base, about, student, paper, part in (
        ("a member", member, one, distilled, 86, ENSEMBLE),
        ("a member", member, same, alone, None, ONE_MEMBER),
        (f"a {usual}", annealed, one, distilled, None, ENSEMBLE),
    ):
        start = base("accuracy").mean
        if reached > start:
            values = student("accuracy").values
            kept = Figure.of([100 * (value - start) / (reached - start) for value in values])
            about_it = f"of the ensemble's gain over {over}, kept by {about}"
            yield Finding(experiment.name, about_it, kept, PERCENT, paper, part, DISTILLED)


def _unlabelled(scale: Scale, experiment: Experiment, results: Results) -> Iterator[Finding]:
    hidden = next(part for part in experiment.students if part != scale.first)
    for about, part, variant in (
        ("a tenth of the labels, nothing else", hidden, LABELS),
        ("a tenth of the labels, soft targets of all rows", hidden, DISTILLED),
        ("all labels", scale.first, LABELS),
        ("all labels, soft targets of all rows", scale.first, DISTILLED),
    ):
        figure = results[part].figure(variant, "errors")
        yield Finding(experiment.name, about, figure, ERRORS, None, part, variant)


def _class_right(found: Mapping[str, Any]) -> float:
    return 100 * (1 - float(found["class_errors"]) / float(found["class_rows"]))


MEASURES: Mapping[str, Callable[[Scale, Experiment, Results], Iterator[Finding]]] = {
    "baselines": _baselines,
    "temperature": _temperature,
    "no-3s": _absent,
    "7s-8s": _present,
    "regularizer": _regularizer,
    "ensemble": _ensemble,
    "unlabelled": _unlabelled,
}
"""Experiment -> its lines."""
