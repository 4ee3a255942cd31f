"""How fast a transfer set is written and read, beside a bare copy of the same numbers.

    uv run python tests/benchmarks/transfer_set_io.py [ROWS]

A million rows of ten logits, files in the page cache, one process; best of five, taken in turns.
The baseline maps raw files with numpy and copies them into the same float32 tensors: no format can
be faster with this cast and these copies. Verified reading also hashes every byte.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kd_ray.transfer_set import (
    Columns,
    Plan,
    SplitPlan,
    TeacherIdentity,
    bytes_per_row,
    index_sha256,
    open_transfer_set,
    shards,
    write_manifest,
    write_shard,
)

CLASSES = 10
REPEATS = 5


def made_plan(rows: int, dtype: str, compression: str) -> Plan:
    """Only the training split has rows."""
    names = tuple(str(number) for number in range(CLASSES))
    counts = {"train": rows, "validation": 0, "test": 0}
    return Plan(
        dataset="random",
        dataset_fingerprint="",
        class_names=names,
        image_shape=(1, 28, 28),
        mean=(0.5,),
        std=(0.5,),
        splits={
            split: SplitPlan(
                dataset_rows=n, fingerprint="", rows=n, index_sha256=index_sha256(np.arange(n))
            )
            for split, n in counts.items()
        },
        teachers=(
            TeacherIdentity(
                sha256="0" * 64, model={"name": "random"}, accuracy=0.0, class_names=names
            ),
        ),
        dtype=dtype,
        views=1,
        augment={},
        seed=0,
        unlabelled=0.0,
        include_images=False,
        shard_rows=65_536,
        compression=compression,
    )


def write(folder: Path, plan: Plan, label: np.ndarray, logits: np.ndarray) -> None:
    """All shards and the manifest."""
    chosen = np.arange(len(label))
    for shard in shards(plan):
        part = slice(shard.start, shard.stop)
        view = np.zeros(shard.rows, np.int32)
        columns = Columns(chosen[part], view, label[part], logits[part])
        write_shard(folder, plan, shard, columns)
    write_manifest(folder, plan)


def read_raw(folder: Path, rows: int, dtype: str) -> tuple[torch.Tensor, ...]:
    """The baseline: index, labels and logits out of three mapped files."""
    index, label = torch.empty(2, rows, dtype=torch.int64)
    logits = torch.empty(rows, CLASSES)
    for name, kind, target in (
        ("index", "int64", index),
        ("label", "int64", label),
        ("logits", dtype, logits),
    ):
        mapped = np.memmap(folder / f"{name}.raw", kind, mode="c", shape=tuple(target.shape))
        target.copy_(torch.from_numpy(mapped))
    return index, label, logits


def best_s(*works: Callable[[], object]) -> list[float]:
    """Shortest wall time of each of several works, taken in turns."""
    best = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for place, work in enumerate(works):
            begin = time.perf_counter()
            work()
            best[place] = min(best[place], time.perf_counter() - begin)
    return best


def measured(plan: Plan, label: np.ndarray, logits: np.ndarray) -> list[str]:
    """One line of the table."""
    rows = len(label)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.arange(rows).tofile(folder / "index.raw")
        label.tofile(folder / "label.raw")
        logits.astype(plan.dtype).tofile(folder / "logits.raw")
        write_s, read_s, verified_s, raw_s = best_s(
            lambda: write(folder, plan, label, logits),
            lambda: open_transfer_set(folder, verify=False),
            lambda: open_transfer_set(folder),
            lambda: read_raw(folder, rows, plan.dtype),
        )
        opened = open_transfer_set(folder)
        raw = read_raw(folder, rows, plan.dtype)
    if not torch.equal(opened.train.logits.view(rows, -1), raw[2]):
        raise SystemExit("the two ways of reading disagree")
    speeds = [f"{rows / s / 1e6:.1f}" for s in (write_s, read_s, verified_s, raw_s)]
    size = f"{bytes_per_row(opened.manifest):.1f}"
    return [plan.dtype, plan.compression, size, *speeds, f"{read_s / raw_s:.1f}"]


def main(rows: int) -> None:
    """Prints one line for each dtype and compression."""
    random = np.random.default_rng(0)
    label = random.integers(0, CLASSES, rows)
    table = Table(
        title=f"{rows:,} rows x {CLASSES} logits, million rows/s; ratio = baseline / read"
    )
    for column in ("dtype", "pages", "B/row", "write", "read", "verified", "baseline", "ratio"):
        table.add_column(column, justify="right")
    for dtype in ("float16", "float32"):
        logits = random.normal(scale=5, size=(rows, 1, CLASSES)).astype(dtype).astype(np.float32)
        for compression in ("none", "zstd"):
            table.add_row(*measured(made_plan(rows, dtype, compression), label, logits))
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
