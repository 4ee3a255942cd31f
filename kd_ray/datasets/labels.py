"""Labels as people write them: numbers or names of classes, or nothing where they are not known."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.errors import DataError, shown

NEGATIVE = re.compile(r"-\d+")

Label: TypeAlias = int | str | None
"""The number or the name of a class, or None where it is not known."""


class Place(NamedTuple):
    """The place of a picture in a file or a list, as messages call it; rows count from 0."""

    of: object
    number: int

    def __str__(self) -> str:
        return f"{self.of}, row {self.number}"


def class_names_of(labels: Iterable[Label]) -> tuple[str, ...]:
    """The distinct labels, sorted: as numbers if they all are numbers, else as texts.

    >>> class_names_of([10, 9, None, 9]), class_names_of(["b", "10", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    names = {str(label) for label in labels if label is not None}
    if all(name.isdecimal() and len(name) < 100 for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def check_names(where: object, names: Sequence[str]) -> None:
    """Raises `DataError` where names of classes do not tell them apart, or cannot be printed."""
    for name in names:
        if not name or not name.isprintable():  # as a byte that is not UTF-8
            raise DataError(
                f"{where}: names of classes must be printable UTF-8, but got {shown(name)}; "
                "rename it"
            )
    name, times = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise DataError(
            f"{where}: each class must have a name of its own, but {times} are {shown(name)}; "
            "rename them"
        )


def numbers_of(
    places: Sequence[object], labels: Sequence[Label], names: Sequence[str], are_numbers: bool
) -> Tensor:
    """Labels as numbers of classes, `(N,)` int64, `UNLABELLED` where there is none.

    Args:
        places: what messages call each of the N pictures.
        labels: of each.
        names: K names.
        are_numbers: whether a label that is a number is that of a class, and not its name.

    Raises:
        DataError: a label is neither.
    """
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.full(len(labels), UNLABELLED)
    for row, label in enumerate(labels):
        if label is None:
            continue
        if are_numbers and isinstance(label, int):
            number, rule = label, f"must be from 0 to {len(names) - 1}, or -1 where it is not known"
        elif NEGATIVE.fullmatch(str(label)):
            number, rule = -1, "must be a name, or a number from 0, or -1 where it is not known"
        else:
            number = number_of.get(str(label), len(names))
            rule = f"must be one of the {len(names)} classes of the training pictures"
        if not 0 <= number < len(names):
            raise DataError(f"{places[row]}: the label {rule}, but is {shown(label)}; correct it")
        numbers[row] = number
    return torch.from_numpy(numbers)
