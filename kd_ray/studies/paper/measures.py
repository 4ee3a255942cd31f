"""How figures of the experiments are measured, and a figure beside the paper's own."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.artefacts import this_device
from kd_ray.config import DataOptions
from kd_ray.datasets import open_dataset
from kd_ray.files import write_json
from kd_ray.report.summary import Figure
from kd_ray.result import STUDENT, TEACHER, Result
from kd_ray.runs import result_model
from kd_ray.runs.variants import DISTILLED
from kd_ray.studies.paper.bias import corrections
from kd_ray.training.saved_model import load_model, raw_logits

BIASES = "biases.json"
ERRORS, PERCENT, POINTS, BIAS, BEST = "errors", "%", "points", "added to the logit", "T"


@dataclass(frozen=True)
class PartResults:
    """What a part has left behind so far.

    Attributes:
        results: the records of its artefacts.
        lacking: variants some of whose students are missing; "" if it is a teacher or the set.
        corrected: seed -> way -> figures, as `corrected_students` has them.
    """

    results: Sequence[Result]
    lacking: frozenset[str] = frozenset()
    corrected: Mapping[int, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def of(self, variant: str, kind: str = STUDENT) -> list[Result]:
        """Records of the seeds of a variant; or of all teachers, for "" and `TEACHER`."""
        return [r for r in self.results if r.kind == kind and r.variant == variant]


Results = Mapping[str, PartResults]
Measure = Callable[[Results], Figure]
"""A figure of finished parts, over seeds."""


@dataclass(frozen=True)
class PaperLine:
    """One line of an experiment's table.

    Attributes:
        about: what is measured.
        part: run folder.
        variant: of the student, or "".
        measure: gives its figure; None where there is nothing to compare.
        unit: `ERRORS`, `PERCENT`, `POINTS`, `BIAS` or `BEST`.
        paper: the paper's own figure, or None.
        temperature: T of the student's soft term, where a plot asks for it.
    """

    about: str
    part: str
    variant: str
    measure: Callable[[Results], Figure | None]
    unit: str = ERRORS
    paper: float | None = None
    temperature: float | None = None

    def cells(self, figure: Figure) -> dict[str, str]:
        """Heading -> text."""
        digits = 2 if self.unit in (PERCENT, POINTS) else 1
        if self.unit == ERRORS and len(figure.values) == 1:
            digits = 0
        return {
            "": self.about,
            "measured": figure.shown(digits),
            "paper": "-" if self.paper is None else f"{self.paper:g}",
            "unit": self.unit,
            "seeds": str(len(figure.values)),
        }

    def table(self, figure: Figure) -> dict[str, Any]:
        """As JSON has it."""
        own = ("about", "unit", "paper", "part", "variant", "temperature")
        return {**{name: getattr(self, name) for name in own}, **asdict(figure)}


def metric(part: str, variant: str, name: str = "errors") -> Measure:
    """A metric of a part's students, or of its teachers for "", on the test split; shares in %."""
    scale = 100.0 if name.endswith(("accuracy", "rate")) else 1.0
    kind = STUDENT if variant else TEACHER
    return lambda results: Figure.of(
        [scale * float(found.metrics[name]) for found in results[part].of(variant, kind)]
    )


def validation_accuracy(student: Result) -> float:
    """Of its last epoch."""
    return float(student.history[-1]["accuracy"])


def ensemble_metric(part: str, name: str) -> Measure:
    """A metric of a part's teachers as one, which every student has measured alike."""
    seen = metric(part, DISTILLED, f"teacher_{name}")
    return lambda results: Figure.of(seen(results).values[:1])


def corrected(part: str, way: str, value: Callable[[Mapping[str, Any]], float]) -> Measure:
    """A value of a part's students whose biases were corrected in a way."""
    return lambda results: Figure.of(
        [value(kept[way]) for kept in results[part].corrected.values()]
    )


def share_gained(
    start: Measure, goal: Measure, reached: Measure, *, falling: bool = False
) -> Callable[[Results], Figure | None]:
    """Percent of the way between two means that others have gone; None where it leads back.

    On a way that is `falling`, less is better.
    """
    sign = -1 if falling else 1

    def measure(results: Results) -> Figure | None:
        low, high = sign * start(results).mean, sign * goal(results).mean
        values = reached(results).values
        if high <= low:
            return None
        return Figure.of([100 * (sign * value - low) / (high - low) for value in values])

    return measure


def corrected_students(
    folder: Path,
    students: Iterable[Result],
    classes: Sequence[str],
    data: DataOptions | None = None,
) -> dict[int, dict[str, Any]]:
    """The figures of students with each of `bias.WAYS`, those that are kept or can be computed.

    They are kept beside the students under the sha256 of their weights.

    Args:
        folder: of a run.
        students: their records.
        classes: names of the classes whose biases move.
        data: `[data]` of the run, to compute and keep what is not kept; None to compute nothing.

    Returns:
        Seed -> way -> `bias.corrected_figures`.

    Raises:
        CheckpointError: a student's file was altered.
        TrainingError: its logits are not finite.
    """
    dataset, answer = None, {}
    try:
        kept = dict(json.loads((folder / BIASES).read_bytes()))
    except (FileNotFoundError, ValueError):  # computed again where it is not readable
        kept = {}
    for student in students:
        key = f"{student.weights_sha256} {' '.join(classes)}"
        if key not in kept and data is not None:
            dataset = dataset or open_dataset(data)
            numbers = [dataset.class_names.index(name) for name in classes]
            path = folder / "student" / student.variant / f"seed-{student.seed}"
            saved = load_model(result_model(path), this_device())
            train, test = (
                raw_logits([saved], [split.in_memory], this_device())[:, 0]
                for split in (dataset.train, dataset.test)
            )
            kept[key] = corrections(train, dataset.train.labels, test, dataset.test.labels, numbers)
            write_json(folder / BIASES, kept)
        if key in kept:
            answer[student.seed] = kept[key]
    return answer
