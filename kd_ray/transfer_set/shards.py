"""Shards: the Parquet files of a transfer set, each a pure function of its range of rows.

A shard is written whole under a temporary name and renamed, carries the plan it belongs to, and has
the same bytes for the same inputs, so any number of workers may write them in any order.
"""

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kd_ray.errors import TransferSetError, difference
from kd_ray.files import check_regular, committed_file, local_copy
from kd_ray.transfer_set.columns import Columns, array_problems, check_logits, parquet_schema
from kd_ray.transfer_set.compact import Basis
from kd_ray.transfer_set.divergence import TEMPERATURES, Divergence
from kd_ray.transfer_set.plan import Plan, Shard, leaves, shards

ROW_GROUP_ROWS = 16_384
PLAN_KEY = b"kd_ray.plan"
SHARD_KEY = b"kd_ray.shard"
COST_KEY = b"kd_ray.cost"


def write_shard(
    folder: Path, plan: Plan, shard: Shard, columns: Columns, basis: Basis | None = None
) -> Path:
    """Writes the rows of one shard into the set's folder; returns the path of the file.

    Compact logits are coded by the basis that the plan names, and the file says what that costs.

    Raises:
        TransferSetError: a logit is not finite, or too large for the plan's dtype.
        StorageError: the file cannot be written.
        ValueError: the arrays do not fit the plan; a bug of the caller.
    """
    if shard not in shards(plan):
        raise ValueError(f"the plan must have this shard, but got {shard}")
    for problem in array_problems(plan, shard, columns):
        raise ValueError(f"{shard.name}: {problem}")
    check_logits(plan, shard, columns)
    metadata = {PLAN_KEY: plan.json_text.encode(), SHARD_KEY: _shard_text(shard)}
    codes = None
    if basis is not None:
        codes, cost = basis.encode(torch.from_numpy(columns.logits))
        of_rows = cost.flatten(0, 1)
        pairs = zip(of_rows.mean(dim=0).tolist(), of_rows.amax(dim=0).tolist(), strict=True)
        # Of a few digits, which another machine computes as well.
        metadata[COST_KEY] = json.dumps([[float(f"{x:.2e}") for x in p] for p in pairs]).encode()
    table = columns.table(plan, metadata, codes)
    # Ascending row numbers and small labels shrink from 20 to 2 bytes a row; every reader knows it.
    encoding = dict.fromkeys(("index", "view", "label"), "DELTA_BINARY_PACKED")
    if plan.compression == "zstd" and plan.dtype == "float32":
        # Bytes sorted by significance give zstd more to find; DuckDB reads that for float32 only.
        encoding["logits.list.element"] = "BYTE_STREAM_SPLIT"
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


def shard_cost(folder: Path, shard: Shard) -> tuple[Divergence, ...]:
    """What coding has cost the rows of a shard that is whole."""
    stored = json.loads(pq.read_schema(folder / shard.name).metadata[COST_KEY])
    return tuple(
        Divergence(temperature=temperature, mean=mean, largest=largest)
        for temperature, (mean, largest) in zip(TEMPERATURES, stored, strict=True)
    )


def shard_state(folder: Path, plan: Plan, shard: Shard) -> Literal["missing", "whole"]:
    """Whether this shard still has to be written; a file that cannot be parsed counts as missing.

    Raises:
        TransferSetError: the file under this name is no part of a set with this plan.
    """
    path = folder / shard.name
    try:
        check_regular(path)
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
    check_owner(path, plan, metadata.get(PLAN_KEY))
    is_shard = rows == shard.rows and metadata.get(SHARD_KEY) == _shard_text(shard)
    return "whole" if is_shard and schema.equals(parquet_schema(plan)) else "missing"


def _shard_text(shard: Shard) -> bytes:
    return f"{shard.split} {shard.start} {shard.stop}".encode()


def check_owner(path: Path, plan: Plan, stored: bytes | None) -> None:
    """Refuses a file that another plan, or another program, has written; `stored` is its plan."""
    if stored is None:
        raise TransferSetError(
            f"{path}: this folder may hold files of the transfer set only, but this one is not; "
            "move it away"
        )
    if stored != plan.json_text.encode():
        try:
            theirs, ours = (dict(leaves(json.loads(text))) for text in (stored, plan.json_text))
            differing = difference(theirs, ours)
        except (ValueError, RecursionError):
            differing = "the plan in this file does not decode"
        raise TransferSetError(
            f"{path}: all files of a transfer set must have one plan, but {differing}; "
            "delete the folder to label anew, or take back what was changed"
        )
