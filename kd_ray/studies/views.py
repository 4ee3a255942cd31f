"""Accuracy over stored views, beside a teacher in every step: what storing logits costs.

One transfer set has the most views; students are shown the first V of them.
"""

from collections.abc import Mapping, Sequence

from kd_ray.config import Recipe
from kd_ray.errors import ConfigError
from kd_ray.report.summary import Row, Summary
from kd_ray.result import TRANSFER_SET, Result
from kd_ray.runs.variants import ONLINE, Variant, derived, variant
from kd_ray.studies.comparison import Comparison, TableLine
from kd_ray.units import bytes_shown


def view_students(recipe: Recipe, numbers: Sequence[int]) -> dict[int | None, Variant]:
    """Students of the first so many stored views, and one with the teacher run in every step.

    Returns:
        V -> student; None for the teacher in every step.

    Raises:
        ConfigError: no number, one twice, or one below 1.
    """
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise ConfigError(
            f"views: must be at least one number from 1 on, each once, but got {list(numbers)}"
        )
    shown: dict[int | None, Variant] = {
        v: Variant(f"views-{v}", derived(recipe, student={"views": v})) for v in numbers
    }
    return {**shown, None: variant(recipe, ONLINE)}


def view_lines(students: Mapping[int | None, Variant], summary: Summary) -> list[TableLine]:
    """The students of a run by their views, ascending; the one without stored logits last."""
    rows = {v: summary.row(student.name) for v, student in students.items()}
    stored = sorted((v, row) for v, row in rows.items() if v is not None and row is not None)
    lines = [_line(v, row, *set_cost(summary.results, v)) for v, row in stored]
    online = rows[None]
    if online is not None:
        seconds = [row.seconds.mean for _, row in stored]
        longer = online.seconds.mean - sum(seconds) / len(seconds) if seconds else None
        lines.append(_line(None, online, None, longer))
    return lines


def _line(
    views: int | None, figures: Row, set_bytes: float | None, teacher_s: float | None
) -> TableLine:
    """A line of the table; without `views` and `set_bytes` where the teacher is run in every step.

    There `teacher_s` is for each student, else once for all of them; None where it is not known.
    """
    shown = figures.cells()
    seconds = "-" if teacher_s is None else f"{teacher_s:,.1f}"
    cells = {
        "views": "in every step" if views is None else str(views),
        **{heading: shown[heading] for heading in ("accuracy %", "errors", "agreement %")},
        "transfer set": "-" if set_bytes is None else bytes_shown(set_bytes),
        "teacher s": f"{seconds} each" if views is None else seconds,
        "student s": shown["seconds"],
        "seeds": shown["seeds"],
    }
    costs = {"set_bytes": set_bytes, "teacher_s": teacher_s, "student_s": figures.seconds.mean}
    curve = ("teacher in every step", "labels") if views is None else ("stored logits", "distilled")
    return TableLine({"views": views or ONLINE}, cells, figures, curve, views, costs)


def set_cost(results: Sequence[Result], views: int) -> tuple[float | None, float | None]:
    """Bytes and teacher seconds of a set with V views, of the measured ones of a larger set.

    Rows are of one size and take the teacher one time each, so both are shares by rows. What an
    interrupted labelling took is reckoned from its pace. None without a labelling in `results`.
    """
    for result in results:
        metrics = result.metrics
        if result.kind == TRANSFER_SET and "train_rows" in metrics:
            stored = result.recipe["transfer_set"]["views"]
            held_out = metrics["rows"] - metrics["train_rows"] * stored
            rows = metrics["train_rows"] * views + held_out
            seconds = rows / result.images_per_s if result.images_per_s else None
            return metrics["bytes"] * rows / metrics["rows"], seconds
    return None, None


OVER_VIEWS = Comparison(
    "views",
    page_title="accuracy over stored views",
    table_title="stored views, test split",
    plot_title="Test accuracy over stored views",
    axis="views V",
    note="Mean over seeds, with the sample standard deviation. Every student takes the same number "
    "of steps and sees the rows in the same order; with V views, epoch e shows view (e - 1) mod V. "
    "The teacher that is run in every step labels a view of its own for each epoch. Bytes and "
    "teacher seconds of V views are the measured ones of the largest set, by rows; those of the "
    "teacher in every step are what its student took longer than those of stored logits, for each "
    "student.",
    students=view_students,
    lines=view_lines,
    leaving=("seeds", "agreement %", "student s"),
)
