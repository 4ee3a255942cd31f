"""One Parquet or CSV file of pictures and labels, here or in an object store.

A picture is bytes, in the layout that data sets are shared in on the Hugging Face hub, or a path
below the file's folder. Labels are read at once, pictures some at a time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet as pq
from pydantic_core import from_json

from kd_ray.config import ColumnNames
from kd_ray.datasets.labels import Label, Place
from kd_ray.datasets.listed import Picture
from kd_ray.datasets.storage import readable
from kd_ray.errors import DataError, shown
from kd_ray.files import check_regular, local_copy

ROWS_AT_ONCE = 256
KINDS = {"parquet": "a Parquet file", "csv": "a CSV file whose first line names the columns"}
NO_LABEL = (None, "", -1, "-1")
FRACTION = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?")
METADATA = b"huggingface"
"""The key of a schema's metadata under which the data set's features are described."""


@dataclass(frozen=True)
class TableFile:
    """A file that is open, with all that is read of it but the pictures.

    Attributes:
        path: where it lies.
        rows: how many it has.
        labels: the label of each row.
        splits: what each row says of its split; None if there is no such column.
        class_names: of the labels that are numbers; None if the file has none.
        cells: gives the pictures' cells, some at a time.
    """

    path: Path
    rows: int
    labels: Sequence[Label]
    splits: Sequence[Any] | None
    class_names: tuple[str, ...] | None
    cells: Callable[[], Iterator[list[Any]]]

    def pictures(self, rows: Sequence[int]) -> Iterator[Picture]:
        """The pictures of some rows, which ascend."""
        start, wanted = 0, iter(rows)
        row = next(wanted, None)
        for cells in self.cells() if rows else ():
            while row is not None and row < start + len(cells):
                yield self._picture(cells[row - start], row)
                row = next(wanted, None)
            start += len(cells)

    def _picture(self, cell: Any, row: int) -> Picture:
        """The bytes in a cell, or the file that it names."""
        if isinstance(cell, dict):
            cell = cell.get("path") if cell["bytes"] is None else cell["bytes"]
        if isinstance(cell, bytes):
            return cell
        named = PurePosixPath(cell if isinstance(cell, str) and cell else "/")
        if named.is_absolute() or ".." in named.parts:
            raise DataError(
                f"{Place(self.path, row)}: a picture must be bytes, or a path below the table's "
                f"folder, but is {shown(cell)}; correct it"
            )
        return self.path.parent / named


@contextmanager
def opened_table(
    path: Path, kind: str, columns: ColumnNames, needs_labels: bool
) -> Iterator[TableFile]:
    """A file, open as long as the block lasts.

    Args:
        path: here or in a store.
        kind: parquet or csv.
        columns: which of its columns are meant.
        needs_labels: whether it must have a column of labels.

    Raises:
        DataError: it is no such file, or a column is missing or holds something else.
    """
    reading = partial(readable, path, KINDS[kind], "write it again")
    with local_copy(path) as here:
        with reading():
            check_regular(here)
            schema, rows, read = _parquet(here) if kind == "parquet" else _csv(here)
            names = _class_names(schema, columns.label)
        image, label, split = (
            _column(path, schema, columns, key, needed)
            for key, needed in (("image", True), ("label", needs_labels), ("split", False))
        )
        assert image is not None  # it is needed
        _check_pictures(path, image)

        def whole(field: pa.Field) -> pa.ChunkedArray:
            with reading():
                column = pa.Table.from_batches(read(field.name), pa.schema([field])).column(0)
                if len(column) != rows:
                    raise ValueError(f"it says {rows} rows, but {field.name} has {len(column)}")
                return column

        def cells() -> Iterator[list[Any]]:
            with reading():
                there = 0
                for batch in read(image.name):
                    there += len(batch)
                    yield batch.column(0).to_pylist()
                if there != rows:
                    raise ValueError(f"it says {rows} rows, but {image.name} has {there}")

        yield TableFile(
            path,
            rows,
            labels=_labels(path, label.name, whole(label)) if label else [None] * rows,
            splits=whole(split).to_pylist() if split else None,
            class_names=names,
            cells=cells,
        )


Read = Callable[[str], Iterable[pa.RecordBatch]]
"""Gives a column by its name, some rows at a time."""


def _parquet(path: Path) -> tuple[pa.Schema, int, Read]:
    file = pq.ParquetFile(path)

    def read(name: str) -> Iterator[pa.RecordBatch]:
        yield from file.iter_batches(ROWS_AT_ONCE, columns=[name])

    return file.schema_arrow, file.metadata.num_rows, read


def _csv(path: Path) -> tuple[pa.Schema, int, Read]:
    """Every cell as text, or 007 would be 7."""
    with csv.open_csv(path) as first:
        names = first.schema.names
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    table = csv.read_csv(path, convert_options=texts)
    return table.schema, len(table), lambda name: table.select([name]).to_batches(ROWS_AT_ONCE)


def _column(
    path: Path, schema: pa.Schema, columns: ColumnNames, key: str, needed: bool
) -> pa.Field | None:
    """The column that a key of `data.columns` names, if it is there once."""
    name = getattr(columns, key)
    times = schema.names.count(name)
    if times == 1:
        return schema.field(name)
    if times or needed or key in columns.model_fields_set:
        raise DataError(
            f"{path}: must have one column {shown(name)}, but its columns are "
            f"{', '.join(schema.names) or 'none'}; name the one that holds the {key} with "
            f'data.columns = {{ {key} = "..." }}'
        )
    return None


def _check_pictures(path: Path, field: pa.Field) -> None:
    kind = field.type
    if pa.types.is_struct(kind):
        kind = next((part.type for part in kind if part.name == "bytes"), None)
    if not (_is_binary(kind) or _is_text(field.type)):
        raise DataError(
            f"{path}: the column {field.name!r} must hold pictures as files hold them (binary, or "
            f"struct<bytes, path>) or paths of them (text), but is {shown(str(field.type))}; name "
            'another one with data.columns = { image = "..." }'
        )


def _labels(path: Path, name: str, column: pa.ChunkedArray) -> list[Label]:
    """The labels of all rows: None for null, an empty text and -1."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind)):
        hint = "; numbers are floats where some are missing" if pa.types.is_floating(kind) else ""
        raise DataError(
            f"{path}: the column {name!r} must hold whole numbers or names of classes, but is "
            f"{shown(str(kind))}{hint}; convert it, or name another one with "
            'data.columns = { label = "..." }'
        )
    labels = [None if label in NO_LABEL else label for label in column.to_pylist()]
    for row, label in enumerate(labels if _is_text(kind) else ()):
        if label is not None and FRACTION.fullmatch(label):
            raise DataError(
                f"{Place(path, row)}: the label must be a whole number or the name of a class, but "
                f"is {label}, as numbers are written where some are missing; write whole numbers"
            )
    return labels


def _is_text(kind: Any) -> bool:
    return kind in (pa.string(), pa.large_string())


def _is_binary(kind: Any) -> bool:
    return kind in (pa.binary(), pa.large_binary())


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names of classes in the schema's metadata, if it has any for this column."""
    found: Any = from_json((schema.metadata or {}).get(METADATA, b"{}"))
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"the names of its classes are no list of texts, but {shown(found)}")
    return tuple(found)
