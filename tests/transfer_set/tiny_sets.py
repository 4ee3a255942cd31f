"""Tiny transfer sets for the tests of this folder."""

from pathlib import Path
from typing import Any

import numpy as np

from kd_ray.transfer_set import (
    SPLITS,
    Columns,
    Manifest,
    Plan,
    Shard,
    SplitName,
    SplitPlan,
    TeacherIdentity,
    index_sha256,
    shards,
    write_manifest,
    write_shard,
)


def chosen_rows(rows: int) -> np.ndarray:
    """Row numbers with gaps, ascending."""
    return np.arange(rows, dtype=np.int64) * 3 + 1


def tiny_plan(
    train: int = 7,
    validation: int = 2,
    test: int = 3,
    members: int = 1,
    classes: int = 3,
    **changes: Any,
) -> Plan:
    """A plan of a few rows; `changes` are keys of the plan."""
    names = tuple(f"class-{number}" for number in range(classes))
    rows: dict[SplitName, int] = {"train": train, "validation": validation, "test": test}
    values: dict[str, Any] = {
        "dataset": "tiny",
        "dataset_fingerprint": "d" * 64,
        "class_names": names,
        "image_shape": (1, 2, 2),
        "mean": (0.5,),
        "std": (0.25,),
        "splits": {
            split: SplitPlan(
                dataset_rows=3 * n + 1,
                fingerprint=f"{split}-content",
                rows=n,
                index_sha256=index_sha256(chosen_rows(n)),
            )
            for split, n in rows.items()
        },
        "teachers": tuple(
            TeacherIdentity(
                sha256=f"{member:064x}",
                model={"name": "mlp", "hidden": [4]},
                accuracy=0.5,
                class_names=names,
            )
            for member in range(members)
        ),
        "dtype": "float32",
        "views": 1,
        "augment": {"shift": 0, "flip": False},
        "seed": 0,
        "unlabelled": 0.0,
        "include_images": False,
        "shard_rows": 4,
        "compression": "none",
    }
    return Plan(**{**values, **changes})


def content(plan: Plan, split: SplitName, seed: int = 0) -> Columns:
    """Random rows of a split that the plan's types can hold exactly."""
    random = np.random.default_rng([seed, SPLITS.index(split)])
    n, views = plan.splits[split].rows, plan.views_of(split)
    chosen = chosen_rows(n)
    label = random.integers(0, plan.logits_shape[1], n)
    label[random.random(n) < plan.unlabelled] = -1
    logits = random.normal(scale=5, size=(n * views, *plan.logits_shape))
    image = random.integers(0, 256, (n * views, *plan.image_shape), dtype=np.uint8)
    return Columns(
        index=np.repeat(chosen, views),
        view=np.tile(np.arange(views, dtype=np.int32), n),
        label=np.repeat(label, views),
        logits=logits.astype(plan.dtype).astype(np.float32),
        image=image if plan.include_images else None,
    )


def write_one(folder: Path, plan: Plan, shard: Shard, seed: int = 0) -> Path:
    """Writes one shard of `content`."""
    rows = taken(content(plan, shard.split, seed), slice(shard.start, shard.stop))
    return write_shard(folder, plan, shard, rows)


def taken(rows: Columns, part: slice) -> Columns:
    """Some of the rows."""
    image = None if rows.image is None else rows.image[part]
    return Columns(rows.index[part], rows.view[part], rows.label[part], rows.logits[part], image)


def write_all(folder: Path, plan: Plan, seed: int = 0) -> Manifest:
    """Writes a whole set."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards(plan):
        write_one(folder, plan, shard, seed)
    return write_manifest(folder, plan)
