"""Labelling: teachers' raw logits for every row and view, shard by shard; and the audit of them.

A shard is a pure function of its row range, so any worker can write it and a killed run goes on at
the first one that is missing. The order of float sums depends on the number of CPU threads, so on a
CPU the forward pass uses one thread in every worker: bytes do not depend on how work was spread.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.config import Augment, TransferSetOptions
from kd_ray.datasets import Dataset, Split, choose_rows, hidden_labels, render
from kd_ray.errors import TransferSetError
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import (
    SPLITS,
    Plan,
    Rows,
    SplitName,
    SplitPlan,
    TeacherIdentity,
    TransferSet,
    index_sha256,
    shard_state,
    shards,
    write_shard,
)

FORWARD_ROWS = 256
"""Images at once: what a small network makes of more of them falls out of a CPU's caches."""


@dataclass(frozen=True)
class ShardDone:
    """One shard is on disk.

    Attributes:
        name: file name.
        rows: in this shard.
        done_rows: of this worker's so far, found ones included.
        all_rows: of this worker's in all.
        found: whether an earlier run had written it.
        worker: rank of the worker that speaks.
    """

    name: str
    rows: int
    done_rows: int
    all_rows: int
    found: bool
    worker: int


@dataclass(frozen=True)
class Labelled:
    """The rows of one split that are to be labelled.

    Attributes:
        split: where the pixels are.
        index: `(N,)` int64 rows of the split.
        labels: `(N,)` int64, `UNLABELLED` where hidden.
        views: V.
    """

    split: Split
    index: Tensor
    labels: Tensor
    views: int


def chosen_rows(dataset: Dataset, options: TransferSetOptions) -> dict[SplitName, Labelled]:
    """Which rows of each split a transfer set holds; a pure function of its arguments."""
    train = dataset.train
    index = choose_rows(
        train.labels,
        dataset.class_names,
        classes=options.classes,
        fraction=options.fraction,
        seed=options.seed,
    )
    labels = hidden_labels(train.labels[index], options.unlabelled, options.seed)
    held_out: dict[SplitName, Split] = {"validation": dataset.validation, "test": dataset.test}
    return {
        "train": Labelled(train, index, labels, options.views),
        **{
            name: Labelled(split, torch.arange(len(split.labels)), split.labels, 1)
            for name, split in held_out.items()
        },
    }


def plan_labelling(
    dataset: Dataset,
    options: TransferSetOptions,
    teachers: Sequence[SavedModel],
    accuracies: Sequence[float],
) -> Plan:
    """Everything that determines the bytes of a transfer set.

    Raises:
        TransferSetError: a teacher was trained on other data, classes or normalization.
    """
    for teacher in teachers:
        trained_on = teacher.meta.parents.get("dataset")
        if trained_on != dataset.fingerprint:
            raise TransferSetError(
                f"{teacher.path}: the teacher must have been trained on the data it labels, but "
                f"its dataset has fingerprint {trained_on} and {dataset.name} has "
                f"{dataset.fingerprint}; use the same [data] table and files, or train it again"
            )
    return Plan(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        mean=teachers[0].meta.input.mean,
        std=teachers[0].meta.input.std,
        splits={
            name: SplitPlan(
                dataset_rows=len(chosen.split.labels),
                fingerprint=chosen.split.fingerprint,
                rows=len(chosen.index),
                index_sha256=index_sha256(chosen.index.numpy()),
            )
            for name, chosen in chosen_rows(dataset, options).items()
        },
        teachers=tuple(
            TeacherIdentity(
                sha256=teacher.sha256,
                model=teacher.meta.model,
                accuracy=accuracy,
                class_names=tuple(teacher.meta.class_names),
            )
            for teacher, accuracy in zip(teachers, accuracies, strict=True)
        ),
        augment=options.augment.model_dump(mode="json"),
        **options.model_dump(
            include={
                "dtype",
                "views",
                "seed",
                "unlabelled",
                "include_images",
                "shard_rows",
                "compression",
            }
        ),
    )


def label(
    folder: Path,
    plan: Plan,
    options: TransferSetOptions,
    dataset: Dataset,
    teachers: Sequence[SavedModel],
    worker: Worker,
) -> Iterator[ShardDone]:
    """Writes this worker's shards that are not there yet; the manifest is the caller's.

    Raises:
        TransferSetError: a logit is not finite or does not fit the dtype, or the folder holds
            shards of another plan.
        StorageError: a shard cannot be written.
    """
    chosen = chosen_rows(dataset, options)
    mine = shards(plan)[worker.rank :: worker.world]
    all_rows = sum(shard.stop - shard.start for shard in mine)
    done_rows = 0
    with one_thread(worker.device):
        for shard in mine:
            found = shard_state(folder, plan, shard) == "whole"
            if not found:
                rows = chosen[shard.split]
                place = torch.arange(shard.start, shard.stop)
                number, view = place // rows.views, place % rows.views
                images = render(
                    rows.split.images[rows.index[number]],
                    rows.index[number],
                    view,
                    options.augment,
                    options.seed,
                )
                write_shard(
                    folder,
                    plan,
                    shard,
                    index=rows.index[number].numpy(),
                    view=view.to(torch.int32).numpy(),
                    label=rows.labels[number].numpy(),
                    logits=teacher_logits(teachers, images, worker.device).numpy(),
                    image=images.numpy() if options.include_images else None,
                )
            rows_here = shard.stop - shard.start
            done_rows += rows_here
            yield ShardDone(shard.name, rows_here, done_rows, all_rows, found, worker.rank)


def teacher_logits(teachers: Sequence[SavedModel], images: Tensor, device: torch.device) -> Tensor:
    """Raw float32 logits `(N, M, K)` of `(N, C, H, W)` uint8 images, on the CPU."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), FORWARD_ROWS):
            part = images[start : start + FORWARD_ROWS].to(device)
            pixels = part.to(torch.float32, memory_format=torch.channels_last) / 255
            members = []
            for teacher in teachers:
                mean, std = (x.view(1, -1, 1, 1) for x in teacher.normalization(device))
                members.append(teacher.model((pixels - mean) / std).float())
            parts.append(torch.stack(members, dim=1).cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, tensor arithmetic of the block runs in one thread."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: checked.
        wrong_logits: positions (split, row) whose stored logits are not the teachers'.
        wrong_labels: positions (split, row) whose stored label is not the dataset's.
        largest_error: of a stored logit, absolute.
    """

    rows: int
    wrong_logits: list[tuple[str, int]]
    wrong_labels: list[tuple[str, int]]
    largest_error: float

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrong_logits and not self.wrong_labels


def audit(
    transfer_set: TransferSet,
    dataset: Dataset,
    teachers: Sequence[SavedModel],
    *,
    sample: int | None,
    seed: int,
    device: torch.device,
) -> Audit:
    """Runs the teachers again on sampled rows and compares; labels are compared on every row.

    Args:
        transfer_set: opened and verified against its own manifest.
        dataset: its pixels; its fit was checked by the caller.
        teachers: its teachers, in order.
        sample: rows per split to run again; None for all.
        seed: of the sample.
        device: where the teachers run.
    """
    plan = transfer_set.manifest.plan
    augment = Augment.model_validate(plan.augment)
    checked, largest = 0, 0.0
    wrong_logits: list[tuple[str, int]] = []
    wrong_labels: list[tuple[str, int]] = []
    for name in SPLITS:
        rows: Rows = getattr(transfer_set, name)
        split: Split = getattr(dataset, name)
        if not len(rows.index):
            continue
        known = rows.labels != UNLABELLED
        differing = known & (rows.labels != split.labels[rows.index])
        wrong_labels += [(name, int(row)) for row in differing.nonzero()]
        views = plan.views_of(name)
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(rows.index) * views, generator=draw)
        place = order[:sample].sort().values
        number, view = place // views, place % views
        index = rows.index[number]
        images = render(split.images[index], index, view, augment, plan.seed)
        fresh = teacher_logits(teachers, images, device)
        error = (rows.logits[number, view] - fresh).abs()
        bad = (error > _allowed_error(fresh, plan.dtype)).flatten(1).any(dim=1)
        wrong_logits += [(name, int(row)) for row in place[bad]]
        largest = max(largest, float(error.max()))
        checked += len(place)
    return Audit(checked, wrong_logits, wrong_labels, largest)


def _allowed_error(fresh: Tensor, dtype: str) -> Tensor:
    """How far a stored logit may lie from one computed anew, `(N, M, K)`.

    One unit in the last place of the stored type, and what another order of float32 sums (other
    batch, device or threads) does to the largest logits of a row.
    """
    rounding = 2**-10 if dtype == "float16" else 2**-23
    largest = fresh.abs().amax(dim=2, keepdim=True).clamp(min=1.0)
    return rounding * fresh.abs() + 2**-14 * largest
