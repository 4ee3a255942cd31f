"""The file of a compact set's basis, beside the shards: written before them, read with them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from kd_ray.errors import TransferSetError
from kd_ray.files import committed_file, local_copy, sha256_of
from kd_ray.transfer_set.compact import Basis, as_tensors, from_tensors
from kd_ray.transfer_set.plan import CodeIdentity, Plan
from kd_ray.transfer_set.shards import PLAN_KEY, check_owner

BASIS = "basis.safetensors"
MEND = "delete the folder and run kd-ray label again"


def write_basis(folder: Path, plan: Plan, basis: Basis) -> None:
    """Commits the basis of a set whose plan has no code yet.

    Raises:
        StorageError: the file cannot be written.
    """
    content = save(as_tensors(basis), metadata={PLAN_KEY.decode(): plan.json_text})
    with committed_file(folder / BASIS) as draft:
        draft.write_bytes(content)


def code_of(folder: Path, plan: Plan) -> CodeIdentity | None:
    """What codes the logits of a set, by its plan without a code; None where there is no basis yet.

    Raises:
        TransferSetError: the basis there belongs to another plan.
    """
    path = folder / BASIS
    if not path.is_file():
        return None
    with local_copy(path) as copy:
        try:
            with safe_open(copy, framework="pt") as file:
                stored = (file.metadata() or {}).get(PLAN_KEY.decode())
            row_bytes = from_tensors(load_file(copy)).row_bytes
        except (SafetensorError, OSError, KeyError):
            return None
        check_owner(path, plan, None if stored is None else stored.encode())
        size = copy.stat().st_size
        return CodeIdentity(sha256=sha256_of(copy), bytes=size, row_bytes=row_bytes)


def read_basis(folder: Path, plan: Plan) -> Basis | None:
    """The basis of a set, on the CPU; None where logits are dense.

    Raises:
        TransferSetError: it is missing, or not the one that the plan names.
    """
    if plan.code is None:
        return None
    path = folder / BASIS
    if not path.is_file():
        raise TransferSetError(
            f"{path}: compact logits are coded in this basis, but it is missing; put it back, or "
            f"{MEND}"
        )
    with local_copy(path) as copy:
        if (found := sha256_of(copy)) != plan.code.sha256:
            raise TransferSetError(
                f"{path}: must be the basis of these codes, but its sha256 begins {found[:12]} "
                f"instead of {plan.code.sha256[:12]}; put that back, or {MEND}"
            )
        return from_tensors(load_file(copy))
