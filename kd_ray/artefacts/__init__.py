"""Looking at artefacts: evaluate a checkpoint, audit a transfer set, inspect what lies there."""

from kd_ray.artefacts.audit import audit_transfer_set
from kd_ray.artefacts.evaluate import evaluate_checkpoint, this_device
from kd_ray.artefacts.inspect import inspect

__all__ = ["audit_transfer_set", "evaluate_checkpoint", "inspect", "this_device"]
