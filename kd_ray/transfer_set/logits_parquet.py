"""Logits in the columns of Parquet files, the layout that transfer sets have themselves."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import suggestion
from kd_ray.files import check_regular
from kd_ray.transfer_set.given import BESIDE, Array, GivenArray, reading
from kd_ray.transfer_set.plan import SPLITS, Plan, SplitName
from kd_ray.transfer_set.shards import PLAN_KEY

BLOCK_ROWS = 4096
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
Part = tuple[Path, pa.ChunkedArray | None]
"""A Parquet file, and which of its rows are of a split; None for all."""


def parquet_logits(files: Sequence[Path]) -> dict[str, GivenArray]:
    """By batches of rows; see the guide for the columns."""
    parts: dict[SplitName, list[Part]] = {}
    for path in files:
        for split, rows in _splits_in(path):
            parts.setdefault(split, []).append((path, rows))
    arrays = {}
    for split, pieces in parts.items():
        for column in ("logits", *BESIDE):
            without = [path for path, _ in pieces if column not in pq.read_schema(path).names]
            if not without:
                name = split if column == "logits" else f"{split}.{column}"
                arrays[name] = _column(pieces, column)
            elif len(without) < len(pieces):
                raise ValueError(f"{without[0].name} has no column {column}, but others have")
    return arrays


def _splits_in(path: Path) -> Iterator[tuple[SplitName, pa.ChunkedArray | None]]:
    """By the column `split`; without one, a file is of the split that its name begins with."""
    check_regular(path)
    names = pq.read_schema(path).names
    if "logits" not in names:
        raise ValueError(f"{path.name} has no column logits")
    if "split" not in names:
        yield next((split for split in SPLITS if path.name.startswith(f"{split}-")), "train"), None
        return
    column = pq.read_table(path, columns=["split"])["split"]
    for name in pc.unique(column).to_pylist():
        if name not in SPLITS:
            raise ValueError(f"column split has {name!r}; {suggestion(str(name), SPLITS)}")
        yield name, pc.equal(column, name)


def _column(pieces: Sequence[Part], column: str) -> GivenArray:
    rows, kinds = 0, set()
    for path, chosen in pieces:
        rows += pq.read_metadata(path).num_rows if chosen is None else pc.sum(chosen).as_py()
        kind = pq.read_schema(path).field(column).type
        while isinstance(kind, LISTS):
            kind = kind.value_type
        kinds.add(np.dtype(kind.to_pandas_dtype()).name)
    if len(kinds) > 1:
        raise ValueError(f"column {column} has types {' and '.join(sorted(kinds))}")
    first: Array = next(_column_blocks(pieces, column), np.empty((0, 0)))
    blocks = partial(_column_blocks, pieces, column)
    return GivenArray((rows, *first.shape[1:]), kinds.pop(), blocks)


def _column_blocks(pieces: Sequence[Part], column: str) -> Iterator[Array]:
    width: tuple[int, ...] | None = None
    for path, chosen in pieces:
        with reading(path), pq.ParquetFile(path) as file:
            plan = (file.schema_arrow.metadata or {}).get(PLAN_KEY) if column == "logits" else None
            # In our own files the teachers lie one after the other in a flat list.
            inner = () if plan is None else Plan.model_validate_json(plan).logits_shape
            at = 0
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=[column]):
                values = batch.column(0)
                if chosen is not None:
                    values = values.filter(chosen.slice(at, len(values)).combine_chunks())
                    at += batch.num_rows
                if column == "label":
                    values = values.fill_null(UNLABELLED)
                if not len(values):
                    continue
                block = _dense(values, column)
                block = block.reshape(len(block), *inner) if inner else block
                if width not in (None, block.shape[1:]):
                    raise ValueError(f"column {column} has rows of {width} and {block.shape[1:]}")
                width = block.shape[1:]
                yield block


def _dense(values: pa.Array, column: str) -> Array:
    """A column of numbers, or of lists of one length, as an array."""
    shape = [len(values)]
    while isinstance(values.type, LISTS):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1 or None in lengths:
            got = " and ".join("null" if length is None else str(length) for length in lengths)
            raise ValueError(f"the lists in column {column} have lengths {got}")
        shape += lengths
        values = values.flatten()
    if values.null_count:
        raise ValueError(f"column {column} has nulls")
    dense: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return dense
