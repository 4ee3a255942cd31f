"""Packing: the pictures of a dataset, as they are and in a drawn order, into Parquet shards.

A packing that was killed goes on at the first shard that is missing. The manifest comes last.
"""

import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kd_ray.config import DataOptions
from kd_ray.datasets.counter_random import hashed
from kd_ray.datasets.packed.plan import (
    MANIFEST,
    PackedFile,
    PackedShard,
    PackManifest,
    PackPlan,
)
from kd_ray.datasets.packed.shard import WrittenShard, write_packed_shard, written_shard
from kd_ray.datasets.packed.source import PackSource, opened_source
from kd_ray.errors import DataError
from kd_ray.files import locked, remove_drafts, to_path, write_json

GROUP_BYTES = 4 * 2**20
"""Of a row group. Measured: from 1/4 to 4 MiB they are read at 2 GB/s for a core with checksums, at
16 MiB at 1.4; and a store answers fewer, larger requests faster."""
GROUPS_IN_SHARD = 32
AT_WORK = 2
"""Shards that are in memory, as one core hashes at a fraction of a disk's speed."""
PACK = 105
"""The draw of the order, apart from those of `selection`."""


Work = TypeVar("Work")
Done = TypeVar("Done")


@dataclass(frozen=True)
class ShardPacked:
    """A shard is there.

    Attributes:
        file: what it is.
        existed: whether an earlier attempt had written it.
        done: shards that are there.
        all: shards of the dataset.
    """

    file: PackedFile
    existed: bool
    done: int
    all: int


def pack(options: DataOptions, to: str | Path, *, leave_out: bool = False) -> Iterator[ShardPacked]:
    """Packs the dataset of `[data]` into a folder, or goes on where it was left.

    Args:
        options: `[data]`: its classes and its fraction are taken; validation rows and hidden labels
            are left to who reads the packed dataset.
        to: the folder, or its URL in a store.
        leave_out: pictures that do not decode are left out and counted, instead of refused.

    Yields:
        What was written, and what was there.

    Raises:
        DataError: a picture does not decode, or the folder has another packed dataset.
        StorageError: a file cannot be written.
    """
    folder = to_path(to)
    with locked(folder):
        remove_drafts(folder)
        with opened_source(options, folder) as source:
            plan = _plan(options, source, leave_out)
            _check_strangers(folder, plan)
            known, shards = list[WrittenShard](), plan.shards()
            orders = {split: _order(plan, split) for split in plan.rows}

            def made(shard: PackedShard) -> tuple[WrittenShard, bool]:
                if found := written_shard(folder, plan, shard):
                    return found, True
                order = orders[shard.split]
                return write_packed_shard(folder, plan, shard, source, order), False

            for written, existed in _ahead(made, shards):
                known.append(written)
                yield ShardPacked(written.file, existed, len(known), len(shards))
        _write_manifest(folder, plan, known)


def _ahead(work: Callable[[Work], Done], things: Sequence[Work]) -> Iterator[Done]:
    """What becomes of each, in order, while `AT_WORK` of them are worked on."""
    pool, waiting = ThreadPoolExecutor(AT_WORK), deque[Future[Done]]()
    try:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) == AT_WORK:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _plan(options: DataOptions, source: PackSource, leave_out: bool) -> PackPlan:
    group_rows = max(1, GROUP_BYTES // source.row_bytes)
    return PackPlan(
        dataset=source.name,
        source_sha256=source.sha256,
        class_names=source.class_names,
        rows={split: some.rows for split, some in source.splits.items()},
        encoded=source.pictures is not None,
        image_shape=source.image_shape(options.image_size, leave_out),
        image_size=options.image_size if source.pictures is not None else None,
        seed=options.seed,
        group_rows=group_rows,
        shard_rows=GROUPS_IN_SHARD * group_rows,
        leave_out=leave_out,
    )


def _order(plan: PackPlan, split: str) -> Tensor:
    """The rows of a split as they are packed, `(N,)` int64."""
    return torch.argsort(hashed(plan.seed, torch.arange(plan.rows[split]), 0, PACK), stable=True)


def _check_strangers(folder: Path, plan: PackPlan) -> None:
    """Other programs read the folder as *.parquet, so nothing else may be there by that name."""
    strangers = {path.name for path in folder.glob("*.parquet")}
    if strangers := strangers - {shard.name for shard in plan.shards()}:
        raise DataError(
            f"{folder}: may hold files of this packed dataset only, but has {min(strangers)}; name "
            "another folder with --to, or move it away"
        )


def _write_manifest(folder: Path, plan: PackPlan, known: Sequence[WrittenShard]) -> None:
    train = [shard.histogram for shard in known if shard.file.split == "train"]
    manifest = PackManifest(
        plan=plan,
        files=tuple(shard.file for shard in known),
        histogram=tuple(map(tuple, np.sum(train, axis=0).tolist())),
        left_out=tuple(place for shard in known for place in shard.left_out),
        created_with={
            "python": platform.python_version(),
            **{name: version(name) for name in ("kd-ray", "numpy", "pillow", "pyarrow", "torch")},
        },
    )
    write_json(folder / MANIFEST, {**manifest.model_dump(mode="json"), "sha256": manifest.sha256})
