"""What specialists are worth: accuracy by coverage, confusion between groups, the gain kept."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_ray.specialists.groups import ClassGroups


def coverage(labels: Tensor, groups: ClassGroups) -> Tensor:
    """How many specialists have the class of each row, `(N,)` int64."""
    return torch.tensor(groups.covering())[labels]


def by_coverage(
    labels: Tensor, before: Tensor, after: Tensor, covering: Tensor
) -> list[dict[str, Any]]:
    """Accuracy by the number of specialists that cover the true class: the paper's table 4.

    Args:
        labels: `(N,)`.
        before: the generalist's first choice, `(N,)`.
        after: generalist's and specialists' first choice, `(N,)`.
        covering: `coverage` of each row, `(N,)`.

    Returns:
        A line for each number of specialists: `specialists`, `rows`, `correct_before`,
        `correct_after`, and `relative_change` (share; None where nothing was correct before).
    """
    lines = []
    for count in sorted(set(covering.tolist())):
        rows = covering == count
        old = int((before == labels)[rows].sum())
        new = int((after == labels)[rows].sum())
        lines.append(
            {
                "specialists": count,
                "rows": int(rows.sum()),
                "correct_before": old,
                "correct_after": new,
                "relative_change": (new - old) / old if old else None,
            }
        )
    return lines


def confusion(labels: Tensor, chosen: Tensor, of_class: Sequence[int]) -> list[list[int]]:
    """Wrong choices by the group of the label and that of the choice.

    Args:
        labels: `(N,)`.
        chosen: `(N,)`.
        of_class: the group of each class.

    Returns:
        Counts: a line for each group of labels, a column for each of choices. The diagonal is
        confusion within a group; all of them add up to the errors.
    """
    groups = torch.tensor(list(of_class))
    count = int(groups.max()) + 1
    wrong = labels != chosen
    cells = groups[labels[wrong]] * count + groups[chosen[wrong]]
    return torch.bincount(cells, minlength=count * count).view(count, count).tolist()


def gain_kept(base: float, best: float, student: float) -> float | None:
    """Share of the way from `base` to `best` that a student has gone; None where there is no gain.

    >>> gain_kept(0.5, 0.75, 0.6875)
    0.75
    """
    return (student - base) / (best - base) if best > base else None
