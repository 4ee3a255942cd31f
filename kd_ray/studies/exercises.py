"""The four exercises: one student on labels, soft targets, both, and a control, over temperatures.

They take the objective of Hinton et al. 2015, section 2, apart. A line of the table is an exercise
at a temperature, a line of the plot an exercise over all of them.
"""

from collections.abc import Mapping, Sequence

from kd_ray.config import Recipe, SoftWeight
from kd_ray.errors import ConfigError
from kd_ray.report.summary import Summary
from kd_ray.runs.variants import NO_SOFT_TERM, Variant, derived
from kd_ray.studies.comparison import Comparison, TableLine

T_SQUARED = SoftWeight(factor=1.0, times_temperature_squared=True)
EXERCISES: Mapping[str, tuple[str, str]] = {
    "q1": ("labels only", "labels"),
    "q2": ("soft targets only", "smoothing"),
    "q3": ("labels and soft targets", "distilled"),
    "q4": ("labels, softened at T", "softened-labels"),
}
"""Exercise -> what its student learns from, and its colour."""

Students = Mapping[tuple[str, float | None], Variant]
"""Exercise and T -> its student; None where there is no soft term."""


def exercise_students(recipe: Recipe, temperatures: Sequence[float]) -> Students:
    """The four exercises, all but the first at every temperature.

    Raises:
        ConfigError: no temperature, one twice, or one that is not above 0.
    """
    is_positive = all(0 < t < float("inf") for t in temperatures)
    if not temperatures or len(set(temperatures)) < len(temperatures) or not is_positive:
        raise ConfigError(
            "temperatures: must be at least one, each above 0 and only once, but got "
            f"{list(temperatures)}"
        )
    on_labels = derived(recipe, objective={"hard_weight": 1.0, "soft_weight": NO_SOFT_TERM})
    students: dict[tuple[str, float | None], Variant] = {("q1", None): Variant("q1", on_labels)}
    for t in temperatures:
        for q in ("q2", "q3", "q4"):
            objective = {
                "hard_weight": 0.0 if q == "q2" else 1.0,
                "soft_weight": T_SQUARED,
                "soft_decay": 0.0,
                "targets": "labels" if q == "q4" else "teacher",
                "temperature": t,
            }
            students[q, t] = Variant(f"{q}-T{t:g}", derived(recipe, objective=objective))
    return students


def exercise_lines(students: Students, summary: Summary) -> list[TableLine]:
    """The exercises of a run, in their order and then by temperature."""
    lines = []
    for exercise, t in sorted(students, key=lambda chosen: (chosen[0], chosen[1] or 0)):
        if (figures := summary.row(students[exercise, t].name)) is None:
            continue
        about, colour = EXERCISES[exercise]
        name, shown = f"{exercise.upper()} {about}", figures.cells()
        kept = ("accuracy %", "errors", "agreement %", "seeds")
        cells = {
            "exercise": name,
            "T": "-" if t is None else f"{t:g}",
            **{heading: shown[heading] for heading in kept},
        }
        choice = {"exercise": exercise, "temperature": t}
        lines.append(TableLine(choice, cells, figures, (name, colour), t))
    return lines


OVER_TEMPERATURES = Comparison(
    "exercises",
    page_title="the four exercises",
    table_title="the four exercises, test split",
    plot_title="Test accuracy over T",
    axis="temperature T",
    note="Mean over seeds, with the sample standard deviation; dashed, the teacher. Q1 has no soft "
    "term, so it is the same at every T.",
    students=exercise_students,
    lines=exercise_lines,
    teacher={"exercise": "teacher", "T": "-"},
)
