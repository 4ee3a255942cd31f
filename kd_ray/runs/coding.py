"""What codes the logits of a compact transfer set: fitted once, before the first shard."""

from collections.abc import Sequence
from pathlib import Path

import torch

from kd_ray.runs.rows import SplitRows
from kd_ray.training.saved_model import SavedModel, one_thread, raw_logits
from kd_ray.training.workers import Worker, together
from kd_ray.transfer_set import (
    SAMPLE_ROWS,
    Basis,
    Plan,
    code_of,
    fit_basis,
    read_basis,
    write_basis,
)


def coded(
    folder: Path, plan: Plan, teachers: Sequence[SavedModel], rows: SplitRows, worker: Worker
) -> tuple[Plan, Basis | None]:
    """The plan with its code, and the basis on the worker's device; None where logits are dense.

    The first worker fits the basis to training rows at equal distances, unless it is there from an
    earlier attempt; all workers call it together.

    Raises:
        TransferSetError: the folder has the basis of another plan.
        StorageError: the basis cannot be written.
    """
    if not plan.is_compact:
        return plan, None
    with together(worker.device):
        if worker.is_first and code_of(folder, plan) is None:
            count = len(rows.index) * rows.views
            some = torch.arange(min(count, SAMPLE_ROWS)) * count // min(count, SAMPLE_ROWS)
            with one_thread(worker.device):
                sample = raw_logits(teachers, rows.images(some, worker.device), worker.device)
                write_basis(folder, plan, fit_basis(sample.to(worker.device), plan.dtype))
    with together(worker.device):
        plan = Plan.model_validate(plan.model_dump(mode="json") | {"code": code_of(folder, plan)})
        basis = read_basis(folder, plan)
    assert basis is not None  # as it was written just now
    return plan, basis.to(worker.device)
