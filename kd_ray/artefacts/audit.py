"""The audit of a transfer set: its teachers are run again on sampled rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kd_ray.artefacts.evaluate import dataset_of, recipe_of, this_device
from kd_ray.batch import UNLABELLED
from kd_ray.config import Recipe, load_recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.result import read_result
from kd_ray.runs import result_model
from kd_ray.runs.combine import JOINT_TEACHER
from kd_ray.runs.folder import RECIPE
from kd_ray.runs.inputs import check_data
from kd_ray.runs.rows import labelled_rows
from kd_ray.runs.teach import teacher_folder
from kd_ray.training.saved_model import SavedModel, load_model, raw_logits
from kd_ray.transfer_set import TransferSet, check_fit, open_transfer_set, read_manifest


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: checked.
        wrong_logits: positions (split, row) whose stored logits are not the teachers'.
        wrong_labels: positions (split, row) whose stored label is not the dataset's.
        largest_error: of a stored logit, absolute.
        imported: where logits came from whose teacher cannot be run: then no row was checked.
    """

    rows: int
    wrong_logits: list[tuple[str, int]]
    wrong_labels: list[tuple[str, int]]
    largest_error: float
    imported: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrong_logits and not self.wrong_labels


def audit_transfer_set(
    folder: str | Path,
    run: str | Path | None = None,
    *,
    root: str | None = None,
    sample: int | None = 1000,
    seed: int = 0,
) -> Audit:
    """Verifies a transfer set's files, then runs its teachers again on sampled rows.

    Of logits that were imported there is no teacher: then labels alone are compared.

    Args:
        folder: the transfer set, or its URL in a store.
        run: the run folder that has its teachers; by default the one that its recipe names, or
            else the folder's parent.
        root: folder of the dataset's files, if not where the recipe or KD_RAY_DATA says.
        sample: rows per split; None for all.
        seed: of the sample.

    Raises:
        TransferSetError: a file is not as it was written, or the set is of other data or teachers.
        CheckpointError: a teacher is missing.
    """
    given = to_path(folder)
    # The codes of compact logits are compared as they are rebuilt, in single precision.
    opened = open_transfer_set(given, on_disk=not read_manifest(given).plan.code)
    teacher = opened.manifest.plan.teachers[0]
    if teacher.model.get("name") == JOINT_TEACHER:
        raise ConfigError(
            f"{folder}: holds what a generalist and its specialists believe together, which audit "
            "cannot run; audit the transfer set that it was made from, or remove it and run "
            "kd-ray specialize to make it anew"
        )
    if sample is not None and sample < 1:
        raise ConfigError(f"--rows: must be at least 1, but got {sample}; leave it out for 1000")
    if teacher.is_imported:
        data = _recipe_beside(given, run).data
        dataset = open_dataset(data.model_copy(update={"root": root or data.root}))
        check_data(opened.manifest, dataset)
        return Audit(0, [], list(_wrong_labels(opened, dataset)), 0.0, teacher.origin)
    home = _teachers_home(given) if run is None else to_path(run)
    device = this_device()
    teachers = [
        load_model(result_model(teacher_folder(home, member)), device)
        for member in range(len(opened.manifest.plan.teachers))
    ]
    check_fit(opened.manifest, teacher_sha256s=[teacher.sha256 for teacher in teachers])
    dataset = dataset_of(teachers[0].path, teachers[0].meta, root)
    check_data(opened.manifest, dataset)
    return audit(opened, dataset, teachers, sample=sample, seed=seed, device=device)


def _recipe_beside(transfer_set: Path, run: str | Path | None) -> Recipe:
    """The recipe that made a transfer set, or else that of a run folder."""
    if result := read_result(transfer_set):
        return recipe_of(transfer_set, result.recipe)
    file = (transfer_set.absolute().parent if run is None else to_path(run)) / RECIPE
    if file.is_file():
        return load_recipe(file)
    raise ConfigError(
        f"{transfer_set}: labels are compared with the dataset of a recipe, but there is no "
        f"{file}; name the run folder that learned from this set with --run"
    )


def _teachers_home(transfer_set: Path) -> Path:
    """The run folder that has a transfer set's teachers, as far as the set says."""
    result = read_result(transfer_set)
    teacher = recipe_of(transfer_set, result.recipe).teacher if result else None
    elsewhere = teacher.path if teacher else None
    return to_path(elsewhere) if elsewhere else transfer_set.absolute().parent


def audit(
    transfer_set: TransferSet,
    dataset: Dataset,
    teachers: Sequence[SavedModel],
    *,
    sample: int | None,
    seed: int,
    device: torch.device,
) -> Audit:
    """The audit of an opened transfer set of this dataset by its teachers, in order.

    Labels are compared on every row, logits on a seeded sample of each split; None for all.
    """
    checked, largest = 0, 0.0
    wrong_logits: list[tuple[str, int]] = []
    for name, rows in labelled_rows(transfer_set, dataset).items():
        count = len(rows.index) * rows.views
        if not count:
            continue
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(count, generator=draw)[:sample].sort().values
        number, view = rows.image_and_view(order)
        stored = getattr(transfer_set, name).logits[number, view]
        fresh = raw_logits(teachers, rows.images(order, device), device)
        error = (stored - fresh).abs()
        if transfer_set.basis is None:
            allowed = _allowed_error(fresh, transfer_set.manifest.plan.dtype)
            bad = (error > allowed).flatten(1).any(1)
        else:
            bad = ~transfer_set.basis.is_code_of(stored, fresh)
        wrong_logits += [(name, int(row)) for row in order[bad]]
        largest = max(largest, float(error.max()))
        checked += len(order)
    return Audit(checked, wrong_logits, list(_wrong_labels(transfer_set, dataset)), largest)


def _wrong_labels(transfer_set: TransferSet, dataset: Dataset) -> Iterator[tuple[str, int]]:
    for name, rows in labelled_rows(transfer_set, dataset).items():
        differing = (rows.labels != UNLABELLED) & (rows.labels != rows.split.labels[rows.index])
        yield from ((name, int(row)) for row in differing.nonzero())


def _allowed_error(fresh: Tensor, dtype: str) -> Tensor:
    """How far a stored logit may lie from one computed anew, `(N, M, K)`.

    One unit in the last place of the stored type, and what another order of float32 sums (other
    batch, device or threads) does to the largest logits of a row.
    """
    rounding = 2**-10 if dtype == "float16" else 2**-23
    largest = fresh.abs().amax(dim=2, keepdim=True).clamp(min=1.0)
    return rounding * fresh.abs() + 2**-14 * largest
