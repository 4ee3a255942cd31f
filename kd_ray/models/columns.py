"""Which outputs of a network with many classes are those of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd_ray.errors import ConfigError
from kd_ray.files import bounded_bytes, reason_of, to_path


@dataclass(frozen=True)
class OutputColumns:
    """Which outputs of a network are the K classes, in the order of these.

    Attributes:
        numbers: of the outputs, counted from 0.
        outputs: how many there are, as a file with their names says; None where none does.
    """

    numbers: tuple[int, ...]
    outputs: int | None = None


def columns_of(
    columns: Sequence[int] | str | None, class_names: Sequence[str]
) -> OutputColumns | None:
    """Which outputs of a teacher are the K classes; None where all are.

    Args:
        columns: their numbers, or a file with the names of all outputs, a line each.
        class_names: K names.

    Raises:
        ConfigError: another number than K, a file that cannot be read, or lacks a class.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        try:
            lines = bounded_bytes(to_path(columns)).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"teacher.columns: {columns} must be a text file with the name of each output, but "
                f"cannot be read ({reason_of(error)}); correct the path"
            ) from error
        names = [line.strip() for line in lines]
        if missing := [name for name in class_names if names.count(name) != 1]:
            raise ConfigError(
                f"teacher.columns: {columns} must have each class of the data in one line, but "
                f"{missing[0]!r} is in {names.count(missing[0])}; give numbers instead"
            )
        return OutputColumns(tuple(names.index(name) for name in class_names), len(names))
    if len(columns) != len(class_names):
        raise ConfigError(
            f"teacher.columns: must be one for each of the {len(class_names)} classes, in their "
            f"order, but there are {len(columns)}; correct it"
        )
    return OutputColumns(tuple(columns))
