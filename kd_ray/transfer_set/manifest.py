"""The manifest: what a finished transfer set is, and whether it fits a run.

It is committed after every shard, so a folder without one is visibly unfinished. It knows the
identities of data, classes and teachers, and nothing of how any of them is made.
"""

import hashlib
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from kd_ray.config.table import Count, Table
from kd_ray.errors import TransferSetError, difference, numbered
from kd_ray.files import local_copies, read_json, reason_of, sha256_of, write_json
from kd_ray.transfer_set.basis_file import BASIS
from kd_ray.transfer_set.divergence import Divergence, summed_up
from kd_ray.transfer_set.plan import FORMAT_VERSION, Plan, Sha256, SplitName, canonical_json, shards
from kd_ray.transfer_set.shards import shard_cost, shard_state
from kd_ray.versions import versions

MANIFEST = "manifest.json"
MEND = "delete it and run kd-ray label again: shards that are whole are kept"


class FileEntry(Table):
    """One Parquet file of a finished set."""

    name: str
    split: SplitName
    rows: Count
    bytes: Count
    sha256: Sha256


class Manifest(Table):
    """What a finished transfer set is."""

    plan: Plan
    """Everything that determined the bytes."""

    files: Annotated[tuple[FileEntry, ...], Field(strict=False)]
    """Its files, in the order of `shards(plan)`."""

    cost: Annotated[tuple[Divergence, ...], Field(strict=False)] = ()
    """Of compact logits, how far rebuilt soft targets lie from the teacher's, at some T."""

    created_with: dict[str, str]
    """Versions of the programs that wrote it."""

    @cached_property
    def sha256(self) -> str:
        """Hex sha256 of plan and files: the identity of the set, independent of writer and time."""
        parts = {"plan", "files", *(["cost"] if self.cost else [])}
        content = self.model_dump(mode="json", include=parts)
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def write_manifest(folder: Path, plan: Plan) -> Manifest:
    """Hashes the shards and commits the manifest; the set is finished from here on.

    Raises:
        TransferSetError: a shard is missing, or a file does not belong to this plan.
        StorageError: the manifest cannot be written.
    """
    # Other programs read the folder as *.parquet, so nothing else may be there under that name.
    strangers = {path.name for path in folder.glob("*.parquet")}
    if strangers := strangers - {shard.name for shard in shards(plan)}:
        raise TransferSetError(
            f"{folder}: this folder may hold files of the transfer set only, but got "
            f"{min(strangers)}; move it away, then run kd-ray label again"
        )
    with local_copies(folder, [shard.name for shard in shards(plan)]) as copies:
        files = _entries(copies, plan)
        costs = ((s.rows, shard_cost(copies, s)) for s in shards(plan))
        cost = summed_up(costs) if plan.is_compact else ()
    writers = {"python": platform.python_version(), **versions()}
    manifest = Manifest(plan=plan, files=files, cost=cost, created_with=writers)
    write_json(folder / MANIFEST, {**manifest.model_dump(mode="json"), "sha256": manifest.sha256})
    return manifest


def _entries(folder: Path, plan: Plan) -> tuple[FileEntry, ...]:
    """Every shard of a local folder, hashed."""
    planned = shards(plan)
    missing = [shard.name for shard in planned if shard_state(folder, plan, shard) == "missing"]
    if missing:
        raise TransferSetError(
            f"{folder}: a transfer set needs all of its {len(planned)} files, but {len(missing)} "
            f"are missing, first {missing[0]}; run kd-ray label again"
        )
    paths = [folder / shard.name for shard in planned]
    with ThreadPoolExecutor() as pool:
        return tuple(
            FileEntry(
                name=shard.name,
                split=shard.split,
                rows=shard.rows,
                bytes=path.stat().st_size,
                sha256=sha256,
            )
            for shard, path, sha256 in zip(planned, paths, pool.map(sha256_of, paths), strict=True)
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished set.

    Raises:
        TransferSetError: no such folder, labelling has not finished, or the manifest is unreadable,
            altered, or of another format version.
    """
    path = folder / MANIFEST
    try:
        values = read_json(path, dict[str, Any], TransferSetError, MEND)
    except FileNotFoundError:
        if not folder.is_dir():
            raise TransferSetError(
                f"{folder}: a transfer set is a folder, but there is none; "
                "correct the path, or run kd-ray label to make it"
            ) from None
        raise TransferSetError(
            f"{folder}: a finished transfer set has a {MANIFEST}, but labelling has not finished: "
            "run kd-ray label again and it goes on"
        ) from None
    plan = values.get("plan")
    found = plan.get("format_version") if isinstance(plan, dict) else None
    if found not in (None, FORMAT_VERSION):
        raise TransferSetError(
            f"{path}: format version must be {FORMAT_VERSION}, but got {found}; "
            "read it with the kd-ray that wrote it, or label anew"
        )
    stated = values.pop("sha256", None)
    try:
        manifest = Manifest.model_validate(values)
    except (ValidationError, TransferSetError) as error:
        raise _unreadable(path, reason_of(error)) from error
    if stated != manifest.sha256:
        raise _unreadable(path, "its content does not have the sha256 that it states")
    expected = [(shard.name, shard.split, shard.rows) for shard in shards(manifest.plan)]
    if expected != [(file.name, file.split, file.rows) for file in manifest.files]:
        raise _unreadable(path, "its files are not those of its plan")
    return manifest


def has_sizes(folder: Path) -> bool:
    """Whether a finished set has all its files, of the sizes that its manifest names.

    Raises:
        TransferSetError: the manifest is not readable.
    """
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder)
    files = {folder / file.name: file.bytes for file in manifest.files}
    if manifest.plan.code is not None:
        files[folder / BASIS] = manifest.plan.code.bytes
    return all(path.is_file() and path.stat().st_size == size for path, size in files.items())


def set_bytes(manifest: Manifest) -> int:
    """Bytes on disk of all rows, and of the basis if they have one."""
    code = manifest.plan.code
    return sum(file.bytes for file in manifest.files) + (code.bytes if code else 0)


def bytes_per_row(manifest: Manifest) -> float:
    """Bytes on disk for one row (index, view), all files and all columns; 0 without rows."""
    rows = sum(file.rows for file in manifest.files)
    return set_bytes(manifest) / rows if rows else 0.0


def check_fit(
    manifest: Manifest,
    *,
    dataset_fingerprint: str | None = None,
    class_names: Sequence[str] | None = None,
    teacher_sha256s: Sequence[str] | None = None,
    views: int | None = None,
) -> None:
    """Refuses a transfer set that was made of something else than a run uses; None is not compared.

    All but the manifest is of the run: its dataset, the hashes of its teachers' weights in order of
    members, and how many views of each training image it uses.

    Raises:
        TransferSetError: the first mismatch, with both sides.
    """
    plan = manifest.plan
    where = f"transfer set of {plan.dataset}"

    def check(
        rule: str, kind: str, there: Sequence[str], here: Sequence[str] | None, advice: str
    ) -> None:
        if here is not None and list(there) != list(here):
            differing = difference(numbered(kind, there), numbered(kind, here))
            raise TransferSetError(
                f"{where}: {rule}, but {differing} (there the set, here the run); "
                f"restore {advice}, or label anew"
            )

    check("its classes must be the run's", "class", plan.class_names, class_names, "data.classes")
    data = None if dataset_fingerprint is None else [dataset_fingerprint]
    rule, advice = "it must be of the run's images and labels", "the data and its options"
    check(rule, "fingerprint", [plan.dataset_fingerprint], data, advice)
    teachers = [teacher.sha256 for teacher in plan.teachers]
    check("it must be of the run's teachers", "member", teachers, teacher_sha256s, "the teachers")
    if views is not None and views > plan.views:
        raise TransferSetError(
            f"{where}: the run asks for views 0 to {views - 1}, but the set has 0 to "
            f"{plan.views - 1}; label anew with transfer_set.views = {views}"
        )


def _unreadable(path: Path, reason: str) -> TransferSetError:
    return TransferSetError(f"{path}: must be as it was written, but it is not ({reason}); {MEND}")
