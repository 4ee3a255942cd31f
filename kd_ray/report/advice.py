"""Advice: what a person who knows sees in the figures of a run, a sentence for each fault.

A rule looks at one kind of taught student, all its seeds together, or at the whole run. It says
nothing where a figure is missing, as in runs of earlier versions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from kd_ray.report.summary import MODEL_NAMES, Summary
from kd_ray.result import STUDENT, Result
from kd_ray.runs.variants import DISTILLED, SPECIALIZED
from kd_ray.training.objectives import STANDARDIZED

SURE = 0.05
"""Nats of mean entropy: about half a percent of the mass is then on the other classes, and soft
targets say hardly more than labels."""
DROWNED = 0.2
"""Share of the labels' gradient: with c = T^2 the soft term pulls as hard as the labels or harder,
and with T^2 forgotten at T = 4 it falls below this."""
DROWNING = 100.0
"""Times the labels' gradient. Labels of a tenth of the weight are often best, so it takes more for
them to be of no account."""
UNFIT = 0.95
"""Agreement on images that were learned from. What a student cannot do there it does nowhere."""
FORGOTTEN = 0.05
"""How much lower agreement may be on test images: more than seeds differ by."""


@dataclass(frozen=True)
class _Students:
    """The seeds of one kind of taught student."""

    name: str
    results: Sequence[Result]

    def __getitem__(self, key: str) -> Any:
        """A value of the recipe's objective."""
        return self.results[0].recipe["objective"][key]

    def last(self, figure: str) -> float:
        """The last one that was noted in a training, mean over seeds."""
        noted = [[r[figure] for r in result.history if figure in r] for result in self.results]
        if not all(noted):
            raise KeyError(figure)
        return float(mean(values[-1] for values in noted))

    def tested(self, figure: str) -> float:
        """On the test split, mean over seeds."""
        return mean(result.metrics[figure] for result in self.results)

    @property
    def pull(self) -> float | None:
        """Gradient of the soft term over that of the labels, half of the looks being below it."""
        ratios = [
            record["soft_gradient"] / record["hard_gradient"]
            for result in self.results
            for record in result.history
            if record.get("hard_gradient") and "soft_gradient" in record
        ]
        return median(ratios) if ratios else None


def advice(summary: Summary) -> list[str]:
    """Sentences with the figure behind each; none of a run that has no fault."""
    groups = [
        _Students(MODEL_NAMES[variant], results)
        for variant in (DISTILLED, SPECIALIZED)
        if (results := [r for r in summary.results if r.kind == STUDENT and r.variant == variant])
    ]
    of_students = [
        found for students in groups for rule in RULES if (found := _said(rule, students))
    ]
    return [line for line in (_teacher(summary), *of_students, _dead_layers(summary)) if line]


def _said(rule: Callable[[_Students], str | None], students: _Students) -> str | None:
    try:
        return rule(students)
    except KeyError:  # a figure is not there
        return None


def _teacher(summary: Summary) -> str | None:
    teacher, labels = summary.row("ensemble") or summary.row("teacher"), summary.row("labels")
    if teacher is None or labels is None or "errors" not in teacher.metrics:
        return None
    best, base = teacher.metrics["errors"], labels.metrics["errors"]
    if best.mean < base.mean:
        return None
    return (
        f"The teacher is no better than the student: it makes {best.mean:g} test errors, the "
        f"student on labels {base.shown(1)}; train it longer, take a larger one, or several."
    )


def _sure(students: _Students) -> str | None:
    entropy = students.last("target_entropy")
    if entropy >= SURE or students["name"] == STANDARDIZED:
        return None
    return (
        f"The teacher is too sure at T = {students['temperature']:g}: its soft targets have a mean "
        f"entropy of {entropy:.3f} nats and say little more than labels; raise "
        "objective.temperature."
    )


def _weights(students: _Students) -> str | None:
    pull = students.pull
    if pull is None or DROWNED <= pull <= DROWNING:
        return None
    c = students["soft_weight"]
    weights = f"with c = {c}, h = {students['hard_weight']:g} and T = {students['temperature']:g}"
    set_c = "" if c == "T^2" else 'set objective.soft_weight = "T^2", or '
    if pull < DROWNED:
        return (
            f"The soft term is drowned: its gradient is {pull:.2g} times that of the labels "
            f"{weights}; {set_c}lower hard_weight."
        )
    return (
        f"The labels are drowned: the soft term's gradient is {pull:,.0f} times theirs {weights}; "
        f"{set_c}set hard_weight = 0 if that is meant."
    )


def _underfit(students: _Students) -> str | None:
    fit = students.last("train_agreement")
    if fit >= UNFIT:
        return None
    epochs = _counted(students.last("epoch"), "epoch")
    return (
        f"The {students.name} underfits its teacher: after {epochs} it chooses the teacher's class "
        f"for {fit:.1%} of the images that it learned from; train it longer, or give it more units "
        "or bits."
    )


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def _views(students: _Students) -> str | None:
    fit, seen = students.last("train_agreement"), students.tested("agreement")
    views, epochs = students.last("views"), students.last("epoch")
    if fit < UNFIT or fit - seen <= FORGOTTEN or views >= epochs:
        return None
    return (
        f"Too few views: the {students.name} chooses the teacher's class for {fit:.1%} of the "
        f"images that it learned from and for {seen:.1%} of test images, after "
        f"{_counted(epochs, 'epoch')} of {_counted(views, 'view')}; raise transfer_set.views, or "
        "label more images."
    )


RULES = (_sure, _weights, _underfit, _views)


def _dead_layers(summary: Summary) -> str | None:
    dead = [
        f"{result.title}: "
        + ", ".join(
            f"{n} ({result.history[-1]['layers'][n]['most']:.1%})" for n in result.dead_layers
        )
        for result in summary.results
        if result.dead_layers and "layers" in result.history[-1]
    ]
    if not dead:
        return None
    return (
        f"Dead layers, with this share of their activations on one level: {'; '.join(dead)}; try "
        "another learning rate, or give them more bits (student.quantizer.layers)."
    )
