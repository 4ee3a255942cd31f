"""kd-ray: distributed knowledge distillation on Ray.

The names below are the Python API; each is imported when it is first used, because torch takes
seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint
    from kd_ray.config import Recipe
    from kd_ray.datasets import Dataset, Split, open_dataset
    from kd_ray.errors import KdRayError
    from kd_ray.objects import Distilled, distill
    from kd_ray.pipeline import Run, open_recipe, run
    from kd_ray.report.summary import Summary
    from kd_ray.runs.imported import write_transfer_set
    from kd_ray.training.saved_model import load_model
    from kd_ray.transfer_set import open_transfer_set

__all__ = [
    "Dataset",
    "Distilled",
    "KdRayError",
    "Recipe",
    "Run",
    "Split",
    "Summary",
    "audit_transfer_set",
    "distill",
    "evaluate_checkpoint",
    "load_model",
    "open_dataset",
    "open_recipe",
    "open_transfer_set",
    "run",
    "write_transfer_set",
]

_HOMES = {
    "Dataset": "kd_ray.datasets",
    "Distilled": "kd_ray.objects",
    "KdRayError": "kd_ray.errors",
    "Recipe": "kd_ray.config",
    "Run": "kd_ray.pipeline",
    "Split": "kd_ray.datasets",
    "Summary": "kd_ray.report.summary",
    "audit_transfer_set": "kd_ray.artefacts",
    "distill": "kd_ray.objects",
    "evaluate_checkpoint": "kd_ray.artefacts",
    "load_model": "kd_ray.training.saved_model",
    "open_dataset": "kd_ray.datasets",
    "open_recipe": "kd_ray.pipeline",
    "open_transfer_set": "kd_ray.transfer_set",
    "run": "kd_ray.pipeline",
    "write_transfer_set": "kd_ray.runs.imported",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kd_ray' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
