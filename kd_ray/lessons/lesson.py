"""What a lesson is: run folders, students in them, and the points of a plot that they become."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kd_ray.result import STUDENT, TEACHER, Result

Measure = Callable[[Result], float]
"""A figure of one seed."""


@dataclass(frozen=True)
class LessonRun:
    """One run folder.

    Attributes:
        name: of the folder.
        about: what is in it, as a clause.
        overrides: `key.path=value` of the recipe that all lessons start from.
        teacher_of: the run whose teacher labels; None to train its own.
        set_of: the run whose transfer set is used; None to label its own.
        stages: those that are performed.
    """

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    teacher_of: str | None = None
    set_of: str | None = None
    stages: tuple[str, ...] = ("teach", "label", "distill")


@dataclass(frozen=True)
class LessonPoint:
    """A point of a plot: one kind of model in one choice, over its seeds.

    Attributes:
        panel: title of the plot that it stands in.
        line: name of the line that it belongs to.
        colour: of the line, as a kind of model.
        place: where it stands on the choice; None of a level, which the choice does not move.
        runs: where its models are, all of them its seeds.
        measure: its figure.
        variant: of the student; "" of what is no student.
        overrides: `key.path=value` of the student, beside those of its run.
        kind: of the records that are measured.
    """

    panel: str
    line: str
    colour: str
    place: float | None
    runs: tuple[str, ...]
    measure: Measure
    variant: str = ""
    overrides: tuple[str, ...] = ()
    kind: str = STUDENT


@dataclass(frozen=True)
class Lesson:
    """A page, and what its plot shows.

    Attributes:
        title: of the page.
        choice: what the horizontal axis is.
        figure: what the vertical axis is.
        runs: in order; one makes what later ones use.
        points: by panel, line and place, in the order of the legend.
    """

    title: str
    choice: str
    figure: str
    runs: tuple[LessonRun, ...]
    points: tuple[LessonPoint, ...]

    def students(self, run: str) -> dict[str, tuple[str, ...]]:
        """Variant -> its own overrides, of one run folder."""
        return {p.variant: p.overrides for p in self.points if run in p.runs and p.variant}


def over(
    line: str,
    colour: str,
    places: Sequence[float],
    run: str,
    measures: Mapping[str, Measure],
    *overrides: str,
) -> Iterator[LessonPoint]:
    """A line: students over a choice.

    Args:
        line: its name.
        colour: see `LessonPoint`.
        places: values of the choice.
        run: where the students are; `{}` in it, as in the overrides, is the value.
        measures: panel -> figure.
        overrides: of each student.
    """
    slug = "-".join("".join(c if c.isalnum() else " " for c in line).split())
    for panel, measure in measures.items():
        for place in places:
            own = tuple(text.replace("{}", f"{place:g}") for text in overrides)
            there = (run.replace("{}", f"{place:g}"),)
            name = f"{slug}-{place:g}"
            yield LessonPoint(panel, line, colour, place, there, measure, name, own)


def level(
    line: str, colour: str, run: str, measures: Mapping[str, Measure], *overrides: str
) -> Iterator[LessonPoint]:
    """A level that the choice does not move: of a student, or without overrides of the teacher."""
    kind, name = (STUDENT, f"{colour}-only") if overrides else (TEACHER, "")
    for panel, measure in measures.items():
        yield LessonPoint(panel, line, colour, None, (run,), measure, name, overrides, kind)
