"""What a transfer set costs and saves, in seconds that were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from kd_ray.result import STUDENT, TEACHER, TRANSFER_SET, Result


@dataclass(frozen=True)
class Cost:
    """Seconds of a run's stages.

    Attributes:
        teachers: training all teachers, once.
        labels: writing the transfer set, once.
        student: training a student from it.
        saved: what running the teachers at every step would add to that: the images that a student
            sees, at the rate at which the teachers labelled.
    """

    teachers: float
    labels: float
    student: float
    saved: float

    @property
    def students(self) -> int:
        """The number of students with which the transfer set has paid for itself.

        >>> Cost(teachers=60, labels=10, student=30, saved=4).students
        3
        """
        return max(1, math.ceil(self.labels / self.saved))

    def __str__(self) -> str:
        """One sentence.

        >>> str(Cost(teachers=60, labels=10, student=30, saved=40))[:51]
        'Cost: teaching 60.0 s and labelling 10.0 s, once; a'
        """
        count = "the first student" if self.students == 1 else f"{self.students:,} students"
        return (
            f"Cost: teaching {self.teachers:,.1f} s and labelling {self.labels:,.1f} s, once; a "
            f"student {self.student:,.1f} s, and {self.saved:,.1f} s more if it ran its teachers "
            f"at every step: the transfer set has paid for itself with {count}."
        )


def cost_of(results: Sequence[Result]) -> Cost | None:
    """The cost of a run, or None where a stage is missing or was not measured."""
    teachers, labels, students = (
        [result for result in results if result.kind == kind]
        for kind in (TEACHER, TRANSFER_SET, STUDENT)
    )
    if not teachers or not labels or not students:
        return None
    rate, rows = labels[0].images_per_s, labels[0].metrics.get("train_rows")
    epochs = mean(result.epochs for result in students)
    if not rate or not rows:  # a labelling that was only finished, or by an earlier version
        return None
    return Cost(
        teachers=sum(result.seconds for result in teachers),
        labels=labels[0].seconds,
        student=mean(result.seconds for result in students),
        saved=epochs * rows / rate,
    )
