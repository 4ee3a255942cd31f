"""Reading a finished transfer set into tensors, after checking that it is what was written.

Columns go from Arrow's buffers into preallocated tensors; nothing loops over rows.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from kd_ray.batch import UNLABELLED
from kd_ray.errors import TransferSetError
from kd_ray.files import local_copies, sha256_of, to_path, writing
from kd_ray.machine import usable_cpus
from kd_ray.transfer_set.basis_file import BASIS, read_basis
from kd_ray.transfer_set.columns import first_disorder
from kd_ray.transfer_set.compact import Basis
from kd_ray.transfer_set.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from kd_ray.transfer_set.plan import SPLITS, Plan, Shard, SplitName, index_sha256, shards
from kd_ray.transfer_set.shards import shard_state

BATCH_BYTES = 64 * 2**20
MEND = f"delete it and {MANIFEST}, then run kd-ray label again: what is whole is kept"


@dataclass(frozen=True)
class Rows:
    """One split in memory, on the CPU.

    Attributes:
        index: row numbers in the split of the dataset, `(N,)` int64, ascending.
        labels: `(N,)` int64; `UNLABELLED` (-1) where the label is hidden.
        logits: raw teacher logits, `(N, V, M, K)` float32 whatever the stored type; of the stored
            type where they are on a disk.
        images: `(N, V, C, H, W)` uint8, or None if the set does not carry them.
    """

    index: Tensor
    labels: Tensor
    logits: Tensor
    images: Tensor | None


@dataclass(frozen=True)
class TransferSet:
    """A transfer set in memory: its manifest, its three splits, and what coded compact logits."""

    manifest: Manifest
    train: Rows
    validation: Rows
    test: Rows
    basis: Basis | None = None


def open_transfer_set(
    where: str | Path, *, verify: bool = True, on_disk: bool = False
) -> TransferSet:
    """Reads a finished transfer set.

    Args:
        where: the folder of `manifest.json` and the Parquet files, or its URL in a store.
        verify: compare each file's sha256 with the manifest's; False saves one pass over the bytes.
            Sizes, plan, order of rows and finiteness are always checked.
        on_disk: keep logits in a file without a name, mapped into memory, and not in memory.

    Raises:
        TransferSetError: unfinished, or a file is missing, truncated or altered.
        StorageError: there is no room for the file.
    """
    folder = to_path(where)
    manifest = read_manifest(folder)
    names = [file.name for file in manifest.files]
    with local_copies(folder, [*names, *([BASIS] if manifest.plan.code else [])]) as copies:
        _check_files(copies, manifest.files, verify=verify)
        for shard in shards(manifest.plan):
            if shard_state(copies, manifest.plan, shard) == "missing":
                raise _altered(copies / shard.name, "it is not this shard of this set")
        basis = read_basis(copies, manifest.plan)
        splits = {name: _read_split(copies, manifest.plan, name, basis, on_disk) for name in SPLITS}
    return TransferSet(manifest, **splits, basis=basis)


def _check_files(folder: Path, files: Iterable[FileEntry], *, verify: bool) -> None:
    for file in files:
        path = folder / file.name
        if not path.is_file():
            raise TransferSetError(
                f"{path}: the manifest names this file, but it is missing; "
                f"put it back, or delete {MANIFEST} and run kd-ray label again"
            )
        found = path.stat().st_size
        if found != file.bytes:
            state = "truncated" if found < file.bytes else "altered"
            raise TransferSetError(
                f"{path}: must have {file.bytes} bytes, but has {found}: it was {state}; {MEND}"
            )
    if not verify:
        return
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda file: sha256_of(folder / file.name), files)
        for file, sha256 in zip(files, hashes, strict=True):
            if sha256 != file.sha256:
                reason = f"its sha256 begins {sha256[:12]} instead of {file.sha256[:12]}"
                raise _altered(folder / file.name, reason)


def _read_split(
    folder: Path, plan: Plan, split: SplitName, basis: Basis | None, on_disk: bool
) -> Rows:
    """All rows of a split; memory for the result and for one batch of each file that is read."""
    rows, views = plan.rows_of(split), plan.views_of(split)
    members, classes = plan.logits_shape
    index, view = np.empty(rows, np.int64), np.empty(rows, np.int32)
    label = np.empty(rows, np.int64)
    stored = torch.float16 if basis is not None else getattr(torch, plan.dtype)
    dtype = stored if on_disk else torch.float32
    logits = _room(folder if on_disk else None, rows, members * classes, dtype)
    images = torch.empty(rows, plan.image_bytes, dtype=torch.uint8) if plan.include_images else None
    row_bytes = 4 * members * classes + (plan.image_bytes if plan.include_images else 0)
    threads = usable_cpus()
    batch_rows = max(1, BATCH_BYTES // threads // row_bytes)

    def fill(shard: Shard) -> None:
        path, at = folder / shard.name, shard.start
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=batch_rows, use_threads=False):
                    part = slice(at, at + batch.num_rows)
                    index[part] = batch.column("index").to_numpy()
                    view[part] = batch.column("view").to_numpy()
                    labels = batch.column("label")
                    label[part] = labels.fill_null(UNLABELLED) if labels.null_count else labels
                    logits[part] = _logits(batch, basis)
                    if images is not None:
                        images.numpy()[part] = pixels(batch.column("image"), plan.image_bytes)
                    at = part.stop
        except (pa.ArrowException, OSError) as error:
            raise _altered(path, f"its pages do not decode: {error}") from error
        part = slice(shard.start, shard.stop)
        if not _all_finite(logits[part]):
            raise _altered(path, "it holds a logit that is not finite")
        if label[part].min() < UNLABELLED or label[part].max() >= classes:
            raise _altered(path, f"it holds a label outside 0..{classes - 1}")

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, (shard for shard in shards(plan) if shard.split == split)):
            pass
    _check_order(folder, plan, split, index, view, label)
    shape = (rows // views, views)
    return Rows(
        index=torch.from_numpy(np.ascontiguousarray(index[::views])),
        labels=torch.from_numpy(np.ascontiguousarray(label[::views])),
        logits=logits.view(*shape, members, classes),
        images=None if images is None else images.view(*shape, *plan.image_shape),
    )


def _all_finite(values: Tensor) -> bool:
    # A sum is twice as fast as a look at each; of finite ones it may overflow.
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(
        np.isfinite(values.numpy()).all()
    )


def _room(folder: Path | None, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """A tensor `(rows, width)` to be filled, in memory or in a file without a name in a folder."""
    if folder is None or not rows:
        # Memory of numpy's is in large pages where the system has them, and so filled faster.
        return torch.from_numpy(np.empty((rows, width), str(dtype).removeprefix("torch.")))
    size = rows * width * dtype.itemsize
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    with writing(place, "transfer_set.path"), tempfile.TemporaryFile(dir=place) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full says so here
        memory = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(memory, dtype=dtype).view(rows, width)


def _logits(batch: pa.RecordBatch, basis: Basis | None) -> Tensor:
    """Those of a batch of rows, `(n, M * K)`, as they are stored or rebuilt from their codes."""
    if basis is None:
        values: Tensor = from_dlpack(batch.column("logits").flatten())
        return values.view(batch.num_rows, -1)
    return basis.decode(pixels(batch.column("code"), basis.row_bytes)).flatten(1)


def pixels(column: pa.FixedSizeBinaryArray, width: int) -> npt.NDArray[np.uint8]:
    """The bytes of a fixed-size binary column, `(n, width)` uint8, read-only and not copied."""
    values = np.frombuffer(column.buffers()[1], np.uint8)
    return values[column.offset * width :][: len(column) * width].reshape(len(column), width)


def _check_order(
    folder: Path,
    plan: Plan,
    split: SplitName,
    index: npt.NDArray[np.int64],
    view: npt.NDArray[np.int32],
    label: npt.NDArray[np.int64],
) -> None:
    views = plan.views_of(split)
    row = first_disorder(views, 0, index, view, label)
    if row is not None:
        path = folder / Shard(split, row // plan.shard_rows, 0, 0).name
        place = f"{split} row {row} (index {index[row]}, view {view[row]})"
        raise _altered(path, f"{place} is out of order")
    if index_sha256(index[::views]) != plan.splits[split].index_sha256:
        raise TransferSetError(
            f"{folder}: the {split} files must hold the images that the plan chose, but they hold "
            "others; delete the folder and run kd-ray label again"
        )


def _altered(path: Path, reason: str) -> TransferSetError:
    return TransferSetError(f"{path}: must be as it was written, but {reason}; {MEND}")
