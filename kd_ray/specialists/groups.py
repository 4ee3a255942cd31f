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

from kd_ray.config import Recipe, SpecialistOptions
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


def check_classes(recipe: Recipe, class_names: Sequence[str]) -> None:
    """Refuses specialists that these classes cannot make, so that nothing is trained for them.

    Raises:
        ConfigError: more specialists than classes, no class left for a dustbin, or a class without
            rows to make groups from.
    """
    if (options := recipe.specialists) is None:
        return
    classes, each = len(class_names), options.classes_each or 2
    if options.count > classes:
        raise ConfigError(
            f"specialists.count: there are {classes} classes to make groups of, but got "
            f"{options.count}; ask for fewer"
        )
    if each >= classes:
        raise ConfigError(
            f"specialists.classes_each: must be less than the {classes} classes, since the rest "
            f"are a specialist's dustbin, but got {each}; lower it, or leave [specialists] out"
        )
    labelled = recipe.transfer_set.classes or class_names
    if missing := [name for name in class_names if name not in labelled]:
        raise ConfigError(
            "specialists: groups need training rows of every class, but transfer_set.classes has "
            f"none of {missing[0]!r}; leave it out"
        )


def find_groups(probabilities: Tensor, options: SpecialistOptions) -> ClassGroups:
    """The classes of each specialist, a function of the arguments alone.

    Each has its group's, and the nearest one besides where that is alone; or `classes_each`, fewer
    than its group has, or some of others besides.

    Args:
        probabilities: the generalist's predictions on training images, `(N, K)`.
        options: no more specialists than classes, and fewer classes each; see `check_classes`.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    covariance = torch.cov(probabilities.double().T, correction=0)
    columns = covariance.numpy()  # symmetric, so its rows are its columns
    # A common scale moves no boundary, and brings small covariances above k-means' tolerance.
    columns = columns / (abs(columns).max() or 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few different columns, see below
        found = KMeans(options.count, n_init=RESTARTS, random_state=options.seed).fit(columns)
    of_class = _numbered(found.labels_.tolist(), options.count)
    sizes = [options.classes_each or max(2, of_class.count(m)) for m in range(options.count)]
    return ClassGroups(of_class, _nearest_classes(columns, of_class, sizes))


def _numbered(labels: Sequence[int], count: int) -> tuple[int, ...]:
    """Groups numbered by their first classes; the largest are halved until there are `count`.

    >>> _numbered([5, 5, 2, 5], 3)
    (0, 1, 2, 0)
    """
    groups = [[c for c, of in enumerate(labels) if of == label] for label in set(labels)]
    while len(groups) < count:  # where the generalist confuses some classes with all others alike
        largest = max(sorted(groups), key=len)
        groups.remove(largest)
        groups += [largest[::2], largest[1::2]]
    groups.sort()
    return tuple(next(m for m, some in enumerate(groups) if c in some) for c in range(len(labels)))


def _nearest_classes(
    columns: npt.NDArray[np.float64], of_class: Sequence[int], sizes: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """So many classes of each specialist: its group's own, nearest first, and then others.

    Near is a small angle to the mean column: a class that is hardly ever confused has a short
    column, and so lies nearer to every centre than the classes that belong there.
    """
    given = torch.from_numpy(columns)
    tiny = torch.finfo(given.dtype).tiny
    directions = torch.nn.functional.normalize(given, eps=tiny)
    own = torch.tensor(of_class).unsqueeze(1) == torch.arange(max(of_class) + 1)  # (K, groups)
    centres = own.T.to(given) @ given
    likeness = directions @ torch.nn.functional.normalize(centres, eps=tiny).T
    # Cosines are at most 1, so this puts all of a group's classes before all others.
    order = (likeness + 3.0 * own).argsort(dim=0, descending=True, stable=True)
    nearest = zip(order.T.tolist(), sizes, strict=True)
    return tuple(tuple(sorted(column[:size])) for column, size in nearest)


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
