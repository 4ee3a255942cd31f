"""Shards: the Parquet files of a transfer set, each a pure function of its range of rows.

A shard is written whole under a temporary name and renamed, carries the plan it belongs to, and has
the same bytes for the same inputs, so any number of workers may write them in any order.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.errors import TransferSetError
from kd_ray.files import committed_file, local_copy
from kd_ray.transfer_set.columns import Columns, array_problems, check_logits, parquet_schema
from kd_ray.transfer_set.plan import SPLITS, Plan, SplitName, image_and_view, plan_difference

ROW_GROUP_ROWS = 16_384
PLAN_KEY = b"kd_ray.plan"
SHARD_KEY = b"kd_ray.shard"
# Ascending row numbers and small labels shrink from 20 to 2 bytes a row; every reader knows it.
INTEGER_ENCODING = "DELTA_BINARY_PACKED"
# Bytes sorted by significance give zstd more to find; DuckDB reads that for float32 only.
ZSTD_FLOAT32_ENCODING = "BYTE_STREAM_SPLIT"


@dataclass(frozen=True)
class Shard:
    """One file: rows `start` to `stop` of a split, counted over (index, view), view fastest."""

    split: SplitName
    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """File name.

        >>> Shard("train", 3, 0, 1).name
        'train-00003.parquet'
        """
        return f"{self.split}-{self.number:05d}.parquet"

    def index_and_view(
        self, chosen: npt.NDArray[np.int64], views: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The row number and the view of every row of this shard.

        Args:
            chosen: ascending row numbers of the labelled images of the split, `(N,)`.
            views: V of the split.

        >>> Shard("train", 1, 3, 6).index_and_view(np.array([5, 8, 9]), views=2)
        (array([8, 9, 9]), array([1, 0, 1], dtype=int32))
        """
        image, view = image_and_view(np.arange(self.start, self.stop), views)
        return chosen[image], view.astype(np.int32)


def shard_ranges(rows: int, shard_rows: int) -> list[range]:
    """Consecutive ranges of at most `shard_rows` rows that cover `rows` rows.

    >>> shard_ranges(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    bounds = [*range(0, rows, shard_rows), rows]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def shards(plan: Plan) -> list[Shard]:
    """Every file of the set; a split without rows has none."""
    return [
        Shard(split, number, rows.start, rows.stop)
        for split in SPLITS
        for number, rows in enumerate(shard_ranges(plan.rows_of(split), plan.shard_rows))
    ]


def write_shard(
    folder: Path,
    plan: Plan,
    shard: Shard,
    index: npt.NDArray[np.int64],
    view: npt.NDArray[np.int32],
    label: npt.NDArray[np.int64],
    logits: npt.NDArray[np.floating[Any]],
    image: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """Writes one shard; n is `shard.rows`.

    Args:
        folder: the transfer set's folder; created if absent.
        plan: what the whole set is.
        shard: which rows these are.
        index: row numbers in the split of the dataset, `(n,)`, ascending.
        view: `(n,)`, counting fastest.
        label: `(n,)`; `UNLABELLED` (-1) where hidden, which all views of an image are together.
        logits: raw teacher logits, `(n, M, K)`.
        image: pixels of each (index, view), `(n, C, H, W)` uint8, if the plan includes them.

    Returns:
        The path of the file.

    Raises:
        TransferSetError: a logit is not finite, or too large for the plan's dtype.
        StorageError: the file cannot be written.
        ValueError: the arrays do not fit the plan; a bug of the caller.
    """
    if shard not in shards(plan):
        raise ValueError(f"the plan must have this shard, but got {shard}")
    columns = Columns(index, view, label, logits, image)
    for problem in array_problems(plan, shard.split, shard.start, shard.stop, columns):
        raise ValueError(f"{shard.name}: {problem}")
    check_logits(plan, shard.split, shard.start, columns)
    metadata = {PLAN_KEY: plan.json_text.encode(), SHARD_KEY: _shard_text(shard)}
    table = columns.table(plan, metadata)
    encoding = dict.fromkeys(("index", "view", "label"), INTEGER_ENCODING)
    if plan.compression == "zstd" and plan.dtype == "float32":
        encoding["logits.list.element"] = ZSTD_FLOAT32_ENCODING
    path = folder / shard.name
    with committed_file(path) as draft:
        pq.write_table(
            table,
            draft,
            row_group_size=ROW_GROUP_ROWS,
            compression=plan.compression,
            use_dictionary=False,
            column_encoding=encoding,
            write_statistics=["index", "view", "label"],
        )
    return path


def shard_state(folder: Path, plan: Plan, shard: Shard) -> Literal["missing", "whole"]:
    """Whether this shard still has to be written; a file that cannot be parsed counts as missing.

    Raises:
        TransferSetError: the file under this name is no part of a set with this plan.
    """
    path = folder / shard.name
    try:
        with local_copy(path) as copy, pq.ParquetFile(copy) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError:
        return "missing"
    except (pa.ArrowException, OSError) as error:
        # A footer that does not decode is an OSError too, but one without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise TransferSetError(
                f"{path}: cannot be read ({error.strerror}); make it readable, or delete it"
            ) from error
        return "missing"
    metadata = schema.metadata or {}
    _check_owner(path, plan, metadata)
    fits = (
        rows == shard.rows
        and metadata.get(SHARD_KEY) == _shard_text(shard)
        and schema.equals(parquet_schema(plan))
    )
    return "whole" if fits else "missing"


def _shard_text(shard: Shard) -> bytes:
    return f"{shard.split} {shard.start} {shard.stop}".encode()


def _check_owner(path: Path, plan: Plan, metadata: dict[bytes, bytes]) -> None:
    """Refuses a file that another plan, or another program, has written."""
    stored = metadata.get(PLAN_KEY)
    if stored is None:
        raise TransferSetError(
            f"{path}: this folder may hold files of the transfer set only, but this one is not; "
            "move it away"
        )
    if stored != plan.json_text.encode():
        try:
            difference = plan_difference(json.loads(stored), json.loads(plan.json_text))
        except ValueError:
            difference = "the plan in this file does not decode"
        raise TransferSetError(
            f"{path}: all files of a transfer set must have one plan, but {difference}; "
            "delete the folder to label anew, or take back what was changed"
        )
