"""What a transfer set costs and saves, in seconds that were measured."""

import math
from collections.abc import Sequence
from statistics import mean

from kd_ray.result import STUDENT, TEACHER, TRANSFER_SET, Result


def students_to_pay(labels_s: float, saved_s: float) -> int:
    """The number of students with which a transfer set has paid for itself.

    Args:
        labels_s: seconds of writing it, once.
        saved_s: seconds that running the teachers at every step would add to a student's training.

    >>> students_to_pay(10, 4)
    3
    """
    return max(1, math.ceil(labels_s / saved_s))


def about_cost(results: Sequence[Result]) -> str:
    """One sentence on the cost of a run; empty where a stage is missing or was not measured."""
    teachers, labels, students = (
        [result for result in results if result.kind == kind]
        for kind in (TEACHER, TRANSFER_SET, STUDENT)
    )
    if not teachers or not labels or not students:
        return ""
    rate, rows = labels[0].images_per_s, labels[0].metrics.get("train_rows")
    if not rate or not rows:  # a labelling that was only finished, or by an earlier version
        return ""
    # The images that a student sees, at the rate at which the teachers labelled.
    saved_s = mean(result.epochs for result in students) * rows / rate
    count = students_to_pay(labels[0].seconds, saved_s)
    return (
        f"Cost: teaching {sum(result.seconds for result in teachers):,.1f} s and labelling "
        f"{labels[0].seconds:,.1f} s, once; a student {mean(r.seconds for r in students):,.1f} s, "
        f"and {saved_s:,.1f} s more if it ran its teachers at every step: the transfer set has "
        f"paid for itself with {'the first student' if count == 1 else f'{count:,} students'}."
    )
