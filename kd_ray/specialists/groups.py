"""Groups of classes that a generalist confuses, and what their specialists are worth.

Hinton et al. 2015, section 5.1: k-means on the columns of the covariance matrix of its predictions
on training images. Classes that are predicted together have similar columns; no labels take part.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_ray.errors import ConfigError, TransferSetError

RESTARTS = 10
"""Runs of k-means from different centres; the best is taken."""


@dataclass(frozen=True)
class ClassGroups:
    """A partition of the classes, and the classes of each specialist.

    Attributes:
        of_class: the group of each of the K classes.
        special: for each group the numbers of its specialist's classes, ascending.
    """

    of_class: tuple[int, ...]
    special: tuple[tuple[int, ...], ...]

    def covering(self) -> list[int]:
        """How many specialists have each of the K classes.

        >>> ClassGroups((0, 0, 1), ((0, 1), (1, 2))).covering()
        [1, 2, 1]
        """
        return [sum(c in some for some in self.special) for c in range(len(self.of_class))]

    def overlaps(self, specialist: int) -> dict[int, list[int]]:
        """Other specialists with some of one's classes, and these classes.

        >>> ClassGroups((0, 0, 1), ((0, 1), (1, 2))).overlaps(0)
        {1: [1]}
        """
        mine = set(self.special[specialist])
        shared = {m: sorted(mine & set(theirs)) for m, theirs in enumerate(self.special)}
        return {m: classes for m, classes in shared.items() if classes and m != specialist}


def find_groups(
    probabilities: Tensor,
    class_names: Sequence[str],
    *,
    count: int,
    classes_each: int | None = None,
    seed: int = 0,
) -> ClassGroups:
    """The classes of each specialist, a function of the arguments alone.

    Args:
        probabilities: the generalist's predictions on training images, `(N, K)`.
        class_names: K names.
        count: how many specialists.
        classes_each: give each specialist the classes nearest to its group's centre, so many of
            them: fewer than its group has, or some of others besides. None for its group.
        seed: random seed of k-means.

    Raises:
        ConfigError: more specialists than the classes have different columns, more classes each
            than there are, or a specialist with fewer than two classes or all of them.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    classes = len(class_names)
    if count > classes:
        raise ConfigError(
            f"specialists.count: there are {classes} classes to make groups of, "
            f"but got {count}; ask for fewer"
        )
    if classes_each is not None and classes_each >= classes:
        raise ConfigError(
            f"specialists.classes_each: must be less than the {classes} classes, since the rest "
            f"are a specialist's dustbin, but got {classes_each}; lower it"
        )
    covariance = torch.cov(probabilities.double().T, correction=0)
    columns = covariance.numpy()  # symmetric, so its rows are its columns
    # A common scale moves no boundary, and brings small covariances above k-means' tolerance.
    columns = columns / (abs(columns).max() or 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in a sentence
        found = KMeans(count, n_init=RESTARTS, random_state=seed).fit(columns)
    order = {int(label): place for place, label in enumerate(dict.fromkeys(found.labels_.tolist()))}
    if len(order) < count:
        raise ConfigError(
            f"specialists.count: the generalist's predictions fill {len(order)} groups of "
            f"classes, but got {count}; ask for {len(order)} or fewer"
        )
    of_class = tuple(order[label] for label in found.labels_.tolist())
    if classes_each is None:
        special = [tuple(c for c in range(classes) if of_class[c] == m) for m in range(count)]
        _check_sizes(special, class_names)
        return ClassGroups(of_class, tuple(special))
    return ClassGroups(of_class, _nearest_classes(columns, of_class, classes_each))


def _nearest_classes(
    columns: npt.NDArray[np.float64], of_class: Sequence[int], count: int
) -> tuple[tuple[int, ...], ...]:
    """The `count` classes of each specialist: its group's own, nearest first, and then others.

    Near is a small angle to the mean column: a class that is hardly ever confused has a short
    column, and so lies nearer to every centre than the classes that belong there.
    """
    given = torch.from_numpy(columns)
    directions = given / given.norm(dim=1, keepdim=True).clamp(min=torch.finfo(given.dtype).tiny)
    own = torch.tensor(of_class).unsqueeze(1) == torch.arange(max(of_class) + 1)  # (K, groups)
    centres = own.T.to(given) @ given
    likeness = directions @ (centres / centres.norm(dim=1, keepdim=True)).T
    # Cosines are at most 1, so this puts all of a group's classes before all others.
    order = (likeness + 3.0 * own).argsort(dim=0, descending=True, stable=True)
    return tuple(tuple(sorted(column)) for column in order[:count].T.tolist())


def _check_sizes(special: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
    for number, classes in enumerate(special):
        if len(classes) == 1:
            raise ConfigError(
                f"specialists: group {number} must have at least two classes to tell apart, but "
                f"has {class_names[classes[0]]!r} alone; lower specialists.count, or set "
                "specialists.classes_each so that it takes the nearest further classes"
            )
        if len(classes) == len(class_names):
            raise ConfigError(
                f"specialists: group {number} must leave classes for its dustbin, but has all "
                f"{len(classes)} from {class_names[0]!r} on; raise specialists.count"
            )


def check_rows(
    labels: Tensor, predicted: Tensor, class_names: Sequence[str], test_rows: int
) -> None:
    """Refuses a transfer set whose rows cannot make groups, or cannot test specialists.

    Args:
        labels: of its training rows, `(N,)`; -1 where hidden.
        predicted: the generalist's first choice on them, `(N,)`.
        class_names: K names.
        test_rows: number of its rows of the test split.

    Raises:
        TransferSetError: a class has no training row, or there are no test rows.
    """
    seen = torch.where(labels < 0, predicted, labels)
    counts = torch.bincount(seen, minlength=len(class_names))
    if int(counts.min()) == 0:
        missing = [class_names[number] for number in (counts == 0).nonzero().flatten().tolist()]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TransferSetError(
            f"specialists: groups need training rows of every class in the transfer set, but it "
            f"has none of {missing[0]!r}{more}; label with all classes (transfer_set.classes)"
        )
    if test_rows == 0:
        raise TransferSetError(
            "specialists: are judged on the transfer set's test rows, but it has none; "
            "use a dataset with a test split"
        )


def coverage(labels: Tensor, groups: ClassGroups) -> Tensor:
    """How many specialists have the class of each row, `(N,)` int64."""
    return torch.tensor(groups.covering())[labels]


def by_coverage(
    labels: Tensor, before: Tensor, after: Tensor, covering: Tensor
) -> list[dict[str, Any]]:
    """Accuracy by the number of specialists that cover the true class: the paper's table 4.

    Args:
        labels: `(N,)`, as the next three.
        before: the generalist's first choice.
        after: that of generalist and specialists.
        covering: `coverage` of each row.

    Returns:
        A line for each number of specialists; `relative_change` is a share, and None where nothing
        was correct before.
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
    """Counts of wrong choices, a line for each group of labels, a column for each of choices.

    The diagonal is confusion within a group; all of them add up to the errors.
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
