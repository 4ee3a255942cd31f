"""One shard of a packed dataset, a pure function of plan and source: written, or there already."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import parquet as pq
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.datasets.packed.plan import PLAN_KEY, PackedFile, PackedShard, PackPlan
from kd_ray.datasets.packed.source import PackSource, Pictures, picture_shape
from kd_ray.errors import DataError, difference
from kd_ray.files import check_regular, committed_file, local_copy, sha256_of
from kd_ray.machine import usable_cpus

SHARD_KEY = b"kd_ray.shard"

Counts = npt.NDArray[np.int64]
"""How often each of the 256 values is a pixel, for each channel: `(C, 256)`."""


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is there, and what its file alone says of its pictures."""

    file: PackedFile
    left_out: Sequence[str]
    histogram: Counts


def write_packed_shard(
    folder: Path, plan: PackPlan, shard: PackedShard, source: PackSource, order: Tensor
) -> WrittenShard:
    """Writes the rows of a shard; `order` has all rows of its split, `(N,)` int64, as packed.

    Raises:
        DataError: a picture does not decode, and is not to be left out, or has another size.
        StorageError: the file cannot be written.
    """
    rows, left_out = order[shard.start : shard.stop], list[str]()
    if source.pictures is None:
        pixels = source.images(shard.split, rows).contiguous()
        histogram = np.stack([_counts(channel) for channel in pixels.unbind(1)])
        kind, buffer = pa.binary(plan.image_bytes), pa.py_buffer(pixels.numpy())
        images = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, buffer])
    else:
        numbers = source.images(shard.split, rows).tolist()
        pictures, histogram = _pictures(plan, source.pictures, numbers)
        gone = [n for n, picture in zip(numbers, pictures, strict=True) if picture is None]
        left_out = [source.pictures.relative(number) for number in gone]
        rows = rows[torch.tensor([picture is not None for picture in pictures])]
        images = pa.array([picture for picture in pictures if picture is not None], pa.binary())
    labels = source.splits[shard.split].labels[rows].numpy()
    about = {
        "range": [shard.start, shard.stop],
        "left_out": left_out,
        "histogram": histogram.tolist(),
    }
    fields = [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("image", images.type, nullable=False),
    ]
    metadata = {PLAN_KEY: plan.json_text.encode(), SHARD_KEY: json.dumps(about).encode()}
    columns = [pa.array(rows.numpy()), pa.array(labels, mask=labels == UNLABELLED), images]
    with committed_file(folder / shard.name, "--to") as draft:
        pq.write_table(
            pa.table(columns, schema=pa.schema(fields, metadata=metadata)),
            draft,
            row_group_size=plan.group_rows,
            compression="none",
            use_dictionary=False,
            write_statistics=["index", "label"],
            write_page_checksum=True,
        )
        return WrittenShard(_entry(draft, shard, len(rows)), left_out, histogram)


def _entry(path: Path, shard: PackedShard, rows: int) -> PackedFile:
    return PackedFile(
        name=shard.name,
        split=shard.split,
        rows=rows,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
    )


def _counts(channel: Tensor) -> Counts:
    # torch's count of bytes takes less than half the time of numpy's, which makes them wide first.
    return torch.bincount(channel.flatten(), minlength=256).numpy()


def _pictures(
    plan: PackPlan, pictures: Pictures, numbers: Sequence[int]
) -> tuple[list[bytes | None], Counts]:
    """Pictures as files hold them, None for one that is left out, and the counts of their pixels.

    All of them are decoded, to see that they can be.
    """

    def decoded(number: int) -> tuple[bytes | None, Sequence[int]]:
        try:
            content, picture = pictures.decoded(number, plan.image_size)
        except DataError:
            if not plan.leave_out:
                raise
            return None, nothing
        if picture_shape(picture) != plan.image_shape:
            theirs = "{} x {}".format(*picture.size)
            raise DataError(
                f"{pictures.places[number]}: all pictures must have one size, but it has {theirs} "
                f"pixels and the first one {plan.image_shape[2]} x {plan.image_shape[1]}; make "
                "them one size (data.image_size resizes pictures)"
            )
        return content, picture.histogram()

    nothing = [0] * 256 * plan.image_shape[0]
    counts = np.zeros(len(nothing), np.int64)
    contents = list[bytes | None]()
    with ThreadPoolExecutor(usable_cpus()) as pool:  # decoding and counting are free of the GIL
        for content, counted in pool.map(decoded, numbers):
            contents.append(content)
            counts += counted
    return contents, counts.reshape(-1, 256)


def written_shard(folder: Path, plan: PackPlan, shard: PackedShard) -> WrittenShard | None:
    """A shard that is there; None of one that still has to be written.

    Raises:
        DataError: the file under its name is of another packed dataset, or of none.
    """
    path = folder / shard.name
    try:
        check_regular(path)
        with local_copy(path) as copy:
            with pq.ParquetFile(copy) as file:
                known, rows = file.schema_arrow.metadata or {}, file.metadata.num_rows
            entry = _entry(copy, shard, rows)
    except (pa.ArrowException, OSError):  # it is missing, or was not written to its end
        return None
    theirs = known.get(PLAN_KEY, b"{}").decode()
    if theirs != plan.json_text:
        found = difference(json.loads(theirs), json.loads(plan.json_text))
        raise DataError(
            f"{path}: must be of the same packing, but {found} (there the file); name another "
            "folder with --to, or delete this one"
        )
    about = json.loads(known[SHARD_KEY])
    if about["range"] != [shard.start, shard.stop]:
        return None
    return WrittenShard(entry, about["left_out"], np.array(about["histogram"], np.int64))
