"""The digits packed into many small groups, and recipes that read them."""

from pathlib import Path
from typing import Any

import pytest

from kd_ray.config import DataOptions, Recipe
from kd_ray.datasets.packed import write
from kd_ray.datasets.packed.write import pack

RECIPE: dict[str, Any] = {
    "name": "streamed",
    "teacher": {
        "model": {"name": "mlp", "hidden": [24], "dropout": [0.0, 0.3]},
        "train": {"epochs": 5, "batch_size": 64, "lr": 0.01, "augment": {"shift": 1}},
    },
    "transfer_set": {"views": 2, "augment": {"shift": 1}, "unlabelled": 0.3, "shard_rows": 700},
    "student": {"model": {"name": "mlp", "hidden": [12]}, "baselines": []},
    "train": {"epochs": 5, "batch_size": 64, "lr": 0.01, "seeds": [0], "keep": "best"},
}


def pack_digits(folder: Path) -> Path:
    """Packs them in groups of twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "GROUP_BYTES", 1280)
        patch.setattr(write, "GROUPS_IN_SHARD", 5)
        for _ in pack(DataOptions(name="digits"), folder):
            pass
    return folder


def data(folder: Path, hold: str) -> dict[str, Any]:
    """The table `[data]` of them."""
    return {"name": "packed", "root": str(folder), "hold": hold, "validation": 100}


def recipe(folder: Path, hold: str) -> Recipe:
    """A recipe that learns from them."""
    return Recipe.model_validate({**RECIPE, "data": data(folder, hold)})
