"""The columns of a shard: their Parquet types, and what they must hold.

Every column is plain Parquet, so that pyarrow, pandas and DuckDB read it without this package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kd_ray.batch import UNLABELLED
from kd_ray.errors import TransferSetError
from kd_ray.transfer_set.plan import Plan, Shard, image_and_view


@dataclass(frozen=True)
class Columns:
    """Consecutive rows of one split.

    Attributes:
        index: row numbers in the split of the dataset, `(n,)`, ascending.
        view: `(n,)`, counting fastest.
        label: `(n,)`; `UNLABELLED` (-1) where hidden, which all views of an image are together.
        logits: raw teacher logits, `(n, M, K)`.
        image: pixels of each (index, view), `(n, C, H, W)` uint8, if the plan includes them.
    """

    index: npt.NDArray[np.int64]
    view: npt.NDArray[np.int32]
    label: npt.NDArray[np.int64]
    logits: npt.NDArray[np.floating[Any]]
    image: npt.NDArray[np.uint8] | None = None

    def table(
        self, plan: Plan, metadata: dict[bytes, bytes], codes: npt.NDArray[np.uint8] | None = None
    ) -> pa.Table:
        """The rows as they are stored, with `metadata` in the schema; `codes` of compact logits."""
        schema = parquet_schema(plan)
        if codes is None:
            flat = np.ascontiguousarray(self.logits, dtype=plan.dtype).reshape(-1)
            logits = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=schema.types[3])
        else:
            logits = _binary(codes, schema.types[3])
        arrays = [
            pa.array(self.index, pa.int64()),
            pa.array(self.view, pa.int32()),
            pa.array(self.label, pa.int64(), mask=self.label == UNLABELLED),
            logits,
        ]
        if self.image is not None:
            arrays.append(_binary(self.image, schema.field("image").type))
        return pa.table(arrays, schema=schema.with_metadata(metadata))


def _binary(values: npt.NDArray[np.uint8], kind: pa.DataType) -> pa.FixedSizeBinaryArray:
    """Bytes `(n, ...)` as a column of fixed size."""
    content = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, content])


def parquet_schema(plan: Plan) -> pa.Schema:
    """Names and types of the columns; the list's item has the name that Parquet gives it."""
    members, classes = plan.logits_shape
    if plan.code is not None:
        logits = pa.field("code", pa.binary(plan.code.row_bytes), nullable=False)
    else:
        value = pa.float16() if plan.dtype == "float16" else pa.float32()
        item = pa.field("element", value, nullable=False)
        logits = pa.field("logits", pa.list_(item, members * classes), nullable=False)
    fields = [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        pa.field("label", pa.int64()),
        logits,
    ]
    if plan.include_images:
        fields.append(pa.field("image", pa.binary(plan.image_bytes), nullable=False))
    return pa.schema(fields)


def first_disorder(
    views: int,
    start: int,
    index: npt.NDArray[np.int64],
    view: npt.NDArray[np.int32],
    label: npt.NDArray[np.int64],
) -> int | None:
    """The first row that breaks the order of a split, None if none does.

    Views count from 0 to V - 1 within an index, indices ascend, and all views of an index have the
    same label. The arrays are `(n,)`, and `start` is the number of their first row in its split,
    from which the answer counts.

    >>> first_disorder(2, 0, np.array([4, 4, 7]), np.array([0, 1, 0]), np.array([1, 1, 3]))
    >>> first_disorder(2, 0, np.array([4, 4, 4]), np.array([0, 1, 0]), np.array([1, 1, 1]))
    2
    """
    if views == 1:  # most rows, and ten times as fast
        good = (view == 0) & (index >= 0)
        good[1:] &= index[1:] > index[:-1]
        return None if good.all() else int(np.argmin(good))
    _, wanted = image_and_view(np.arange(start, start + len(index)), views)
    good = (view == wanted) & (index >= 0)
    step = np.diff(index)
    good[1:] &= np.where(wanted[1:] == 0, step > 0, (step == 0) & (np.diff(label) == 0))
    return None if good.all() else int(np.argmin(good))


def array_problems(plan: Plan, shard: Shard, columns: Columns) -> Iterator[str]:
    """What a caller got wrong about the rows of a shard, worst first."""
    classes = len(plan.class_names)
    if (columns.image is not None) != plan.include_images:
        yield "images must be given if, and only if, the plan includes them"
    kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "index": (np.integer, ()),
        "view": (np.integer, ()),
        "label": (np.integer, ()),
        "logits": (np.floating, plan.logits_shape),
        **({"image": (np.uint8, plan.image_shape)} if plan.include_images else {}),
    }
    for name, (kind, inner) in kinds.items():
        array, shape = getattr(columns, name), (shard.rows, *inner)
        if array.shape != shape or not np.issubdtype(array.dtype, kind):
            yield f"{name} must be {kind.__name__} {shape}, but got {array.dtype} {array.shape}"
    index, label = columns.index, columns.label
    row = first_disorder(plan.views_of(shard.split), shard.start, index, columns.view, label)
    if row is not None:
        yield f"rows must be in order of (index, view), but row {shard.start + row} is not"
    if index.max() >= plan.splits[shard.split].dataset_rows:
        yield f"index must be below the rows of the dataset, but got {index.max()}"
    if label.min() < UNLABELLED or label.max() >= classes:
        yield f"label must be in -1..{classes - 1}, but got {label.min()}..{label.max()}"


def largest_logit(dtype: str, logits: npt.NDArray[np.floating[Any]]) -> float:
    """The largest finite number that both the stored type and the type of the logits have."""
    stored = "float32" if dtype.startswith("compact") else dtype
    return float(min(np.finfo(stored).max, np.finfo(logits.dtype).max))


def first_unfit(logits: npt.NDArray[np.floating[Any]], dtype: str) -> tuple[int, int, int] | None:
    """Row, teacher and class of the first logit that is not finite, or too large for a type.

    Args:
        logits: `(n, M, K)`.
        dtype: in which they are to be stored.
    """
    # A comparison with NaN is false, so one pass finds NaN, infinities and large values.
    fits = np.abs(logits) <= largest_logit(dtype, logits)
    if fits.all():
        return None
    row, member, output = (int(place) for place in np.argwhere(~fits)[0])
    return row, member, output


def check_logits(plan: Plan, shard: Shard, columns: Columns) -> None:
    """Raises `TransferSetError` where a logit is not finite, or too large for the stored type."""
    logits = columns.logits
    unfit = first_unfit(logits, plan.dtype)
    if unfit is None:
        return
    row, member, output = unfit
    value, limit = float(logits[unfit]), largest_logit(plan.dtype, logits)
    where = (
        f"transfer set, {shard.split} row {shard.start + row} (index {columns.index[row]}, "
        f"view {columns.view[row]}, teacher {member}, class {output})"
    )
    if np.isfinite(value):
        raise TransferSetError(
            f"{where}: {plan.dtype} logits must be within ±{limit:g}, but got {value:g}; "
            'set transfer_set.dtype = "float32"'
        )
    raise TransferSetError(
        f"{where}: logits must be finite, but got {value}; "
        "train the teacher again with a lower teacher.train.lr"
    )
