from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import ALONE, tiny_dataset, tiny_teacher

from kd_ray.artefacts.audit import Audit, audit
from kd_ray.batch import UNLABELLED
from kd_ray.config import Augment, TransferSetOptions
from kd_ray.datasets import Dataset, render
from kd_ray.errors import TransferSetError
from kd_ray.runs import ShardDone
from kd_ray.runs.label import plan_labelling, write_shards
from kd_ray.runs.rows import labelled_rows, rows_to_label
from kd_ray.training.saved_model import SavedModel, one_thread, raw_logits
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import (
    Columns,
    Manifest,
    Plan,
    Shard,
    TransferSet,
    open_transfer_set,
    shards,
    write_manifest,
    write_shard,
)

DATASET = tiny_dataset(train=21, validation=4, test=6)
SHIFT = Augment(shift=1, flip=True)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[SavedModel]:
    folder = tmp_path_factory.mktemp("teachers")
    return [tiny_teacher(folder, DATASET, seed=seed) for seed in (1, 2, 3)]


def options(**changes: Any) -> TransferSetOptions:
    return TransferSetOptions(**{"shard_rows": 5, "dtype": "float32", **changes})


def write(
    folder: Path,
    transfer: TransferSetOptions,
    teachers: Sequence[SavedModel],
    workers: int = 1,
    dataset: Dataset = DATASET,
) -> list[ShardDone]:
    """Labels as a group of workers would, one after the other, and writes the manifest."""
    plan = plan_labelling(dataset, transfer, teachers, [0.5] * len(teachers))
    found = []
    for rank in range(workers):
        worker = Worker(rank, workers, torch.device("cpu"), threads=1)
        found += list(label(folder, plan, transfer, teachers, worker, dataset))
    write_manifest(folder, plan)
    return found


def label(
    folder: Path,
    plan: Plan,
    transfer: TransferSetOptions,
    teachers: Sequence[SavedModel],
    worker: Worker = ALONE,
    dataset: Dataset = DATASET,
) -> Iterator[ShardDone]:
    """The shards of one worker, with its teachers' logits."""

    def logits(shard: Shard, images: Iterable[torch.Tensor]) -> torch.Tensor:
        return raw_logits(teachers, images, worker.device)

    return write_shards(folder, plan, rows_to_label(dataset, transfer), logits, worker)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"views": 3, "augment": SHIFT, "include_images": True},
        {"dtype": "float16", "compression": "zstd", "unlabelled": 0.3, "fraction": 0.7},
    ],
)
@pytest.mark.parametrize("workers", [2, 3])
def test_label_writes_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, teachers: list[SavedModel], changes: dict[str, Any], workers: int
):
    write(tmp_path / "one", options(**changes), teachers[:2])
    write(tmp_path / "many", options(**changes), teachers[:2], workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_label_splits_the_shards_among_workers_without_overlap(
    tmp_path: Path, teachers: list[SavedModel]
):
    done = write(tmp_path, options(), teachers[:1], workers=3)
    assert len({event.name for event in done}) == len(done) == 5 + 1 + 2
    assert sum(event.rows for event in done) == 21 + 4 + 6
    assert not any(event.existed for event in done)
    assert [event.done_rows for event in done if event.done_rows == event.all_rows]


def test_label_again_writes_only_the_shard_that_is_missing(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path, options(), teachers[:1])
    before = contents(tmp_path)
    files = {path.name: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
    (tmp_path / "train-00002.parquet").unlink()
    done = write(tmp_path, options(), teachers[:1], workers=2)
    assert [event.name for event in done if not event.existed] == ["train-00002.parquet"]
    kept = {path.name: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
    changed = {name for name, number in files.items() if kept[name] != number}
    assert changed <= {"train-00002.parquet"}
    assert contents(tmp_path) == before


def test_label_again_writes_a_truncated_shard_anew(tmp_path: Path, teachers: list[SavedModel]):
    write(tmp_path, options(), teachers[:1])
    before = contents(tmp_path)
    cut = tmp_path / "test-00000.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    done = write(tmp_path, options(), teachers[:1])
    assert [event.name for event in done if not event.existed] == ["test-00000.parquet"]
    assert contents(tmp_path) == before


def test_label_with_another_plan_refuses_the_shards_that_are_there(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path, options(), teachers[:1])
    with pytest.raises(TransferSetError, match=r"teachers\.0\.sha256 is"):
        write(tmp_path, options(), teachers[1:2])


def test_label_stores_what_each_teacher_says_of_each_view(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path, options(views=3, augment=SHIFT, include_images=True, seed=5), teachers)
    rows = open_transfer_set(tmp_path).train
    assert rows.logits.shape == (21, 3, 3, 3)
    assert rows.images is not None
    assert torch.equal(rows.images[:, 0], DATASET.train.images)
    for view in range(3):
        pixels = render(DATASET.train.images, torch.arange(21), view, SHIFT, seed=5)
        assert torch.equal(rows.images[:, view], pixels)
        share = pixels.float() / 255
        for member, teacher in enumerate(teachers):
            mean, std = teacher.normalization(torch.device("cpu"))
            with torch.no_grad():
                v = teacher.model((share - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1))
            torch.testing.assert_close(rows.logits[:, view, member], v)
    assert not torch.equal(rows.images[:, 1], rows.images[:, 2])


def test_label_gives_validation_and_test_rows_the_plain_view_only(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path, options(views=3, augment=SHIFT), teachers[:1])
    opened = open_transfer_set(tmp_path)
    assert opened.validation.logits.shape == (4, 1, 1, 3)
    assert opened.test.logits.shape == (6, 1, 1, 3)
    assert opened.test.images is None


def test_label_of_chosen_classes_keeps_their_rows_and_all_outputs(
    tmp_path: Path, teachers: list[SavedModel]
):
    transfer = options(classes=["class-0", "class-2"], unlabelled=0.5)
    write(tmp_path, transfer, teachers[:1])
    rows = open_transfer_set(tmp_path).train
    true = DATASET.train.labels[rows.index]
    assert set(true.tolist()) == {0, 2}
    assert len(rows.index) == 14
    known = rows.labels != UNLABELLED
    assert int(known.sum()) == 7
    assert torch.equal(rows.labels[known], true[known])
    assert rows.logits.shape[-1] == 3


def test_rows_to_label_leave_the_held_out_splits_whole():
    chosen = rows_to_label(DATASET, options(fraction=0.5, unlabelled=1.0))
    assert len(chosen["train"].index) < 21
    assert (chosen["train"].labels == UNLABELLED).all()
    assert torch.equal(chosen["test"].labels, DATASET.test.labels)
    assert len(chosen["validation"].index) == 4


@pytest.mark.parametrize(
    "changes", [{}, {"views": 3, "augment": SHIFT, "unlabelled": 0.3, "fraction": 0.7, "seed": 4}]
)
def test_labelled_rows_of_a_set_are_the_rows_that_were_to_be_labelled(
    tmp_path: Path, teachers: list[SavedModel], changes: dict[str, Any]
):
    write(tmp_path, options(**changes), teachers[:1])
    ours = labelled_rows(open_transfer_set(tmp_path), DATASET)
    for split, theirs in rows_to_label(DATASET, options(**changes)).items():
        every = torch.arange(len(theirs.index) * theirs.views)
        one, other = ours[split].rendered(every), theirs.rendered(every)
        for name in ("index", "view", "labels", "images"):
            assert torch.equal(getattr(one, name), getattr(other, name)), (split, name)


def test_label_never_writes_a_logit_that_is_not_finite(tmp_path: Path):
    broken = tiny_teacher(tmp_path / "teachers", DATASET, scale=float("nan"))
    with pytest.raises(TransferSetError, match="finite"):
        write(tmp_path / "set", options(), [broken])
    assert not list((tmp_path / "set").glob("*"))


def test_label_never_writes_a_logit_that_its_type_cannot_hold(tmp_path: Path):
    loud = tiny_teacher(tmp_path / "teachers", DATASET, scale=1e3)
    write(tmp_path / "float32", options(), [loud])
    with pytest.raises(TransferSetError, match="float16"):
        write(tmp_path / "float16", options(dtype="float16"), [loud])
    assert not list((tmp_path / "float16").glob("*"))


def test_plan_labelling_refuses_a_teacher_of_other_data(teachers: list[SavedModel]):
    with pytest.raises(TransferSetError, match="must have been trained on the data it labels"):
        plan_labelling(tiny_dataset(train=30), options(), teachers, [0.5] * 3)


def test_raw_logits_depend_on_no_other_image(teachers: list[SavedModel]):
    images = torch.cat([DATASET.train.images] * 60)  # more than one forward pass
    device = torch.device("cpu")
    together = raw_logits(teachers, [images], device)
    alone = raw_logits(teachers, [images[1030:1031]], device)
    assert together.shape == (1260, 3, 3)
    torch.testing.assert_close(together[1030:1031], alone)


def test_one_thread_gives_the_threads_back_even_to_a_reader_that_leaves():
    torch.set_num_threads(2)
    with one_thread(torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_label_that_is_closed_early_gives_the_threads_back(
    tmp_path: Path, teachers: list[SavedModel]
):
    torch.set_num_threads(2)
    plan = plan_labelling(DATASET, options(), teachers[:1], [0.5])
    generator = label(tmp_path, plan, options(), teachers[:1])
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2


def forged(source: Path, folder: Path, swapped: tuple[int, int], column: str) -> TransferSet:
    """A copy of a set in which two training rows' logits (or labels) changed places.

    Every hash in it is right, those of the files as well as the manifest's own.
    """
    manifest = _manifest(source)
    plan = manifest.plan
    values: dict[str, dict[str, Any]] = {}
    for shard in shards(plan):
        table = pq.read_table(source / shard.name)
        rows = values.setdefault(shard.split, {"index": [], "view": [], "label": [], "logits": []})
        for name in ("index", "view"):
            rows[name] += table[name].to_pylist()
        rows["label"] += [-1 if y is None else y for y in table["label"].to_pylist()]
        rows["logits"] += table["logits"].to_pylist()
    one, other = swapped
    train = values["train"][column]
    train[one], train[other] = train[other], train[one]
    for shard in shards(plan):
        part = slice(shard.start, shard.stop)
        rows = values[shard.split]
        shape = (shard.stop - shard.start, *plan.logits_shape)
        columns = Columns(
            index=np.array(rows["index"][part], np.int64),
            view=np.array(rows["view"][part], np.int32),
            label=np.array(rows["label"][part], np.int64),
            logits=np.array(rows["logits"][part], np.float32).reshape(shape),
        )
        write_shard(folder, plan, shard, columns)
    write_manifest(folder, plan)
    return open_transfer_set(folder)


def _manifest(folder: Path) -> Manifest:
    return open_transfer_set(folder).manifest


def checked(opened: TransferSet, teachers: list[SavedModel], sample: int | None = None) -> Audit:
    return audit(opened, DATASET, teachers, sample=sample, seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_audit_of_an_honest_set_passes_on_every_row(
    tmp_path: Path, teachers: list[SavedModel], dtype: str
):
    write(tmp_path, options(dtype=dtype, views=2, augment=SHIFT, unlabelled=0.2), teachers)
    found = checked(open_transfer_set(tmp_path), teachers)
    assert found.passed
    assert found.rows == 21 * 2 + 4 + 6
    assert found.largest_error < 5e-3


def test_audit_of_a_sample_checks_that_many_rows_of_each_split(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path, options(), teachers[:1])
    assert checked(open_transfer_set(tmp_path), teachers[:1], sample=5).rows == 5 + 4 + 5


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_audit_finds_two_swapped_rows_of_logits_though_every_hash_is_right(
    tmp_path: Path, teachers: list[SavedModel], dtype: str
):
    write(tmp_path / "honest", options(dtype=dtype), teachers[:2])
    opened = forged(tmp_path / "honest", tmp_path / "forged", (3, 17), "logits")
    found = checked(opened, teachers[:2])
    assert not found.passed
    assert found.wrong_logits == [("train", 3), ("train", 17)]
    assert found.wrong_labels == []
    assert found.largest_error > 0.01


def test_audit_finds_swapped_labels_even_outside_the_sample(
    tmp_path: Path, teachers: list[SavedModel]
):
    write(tmp_path / "honest", options(), teachers[:1])
    opened = forged(tmp_path / "honest", tmp_path / "forged", (3, 17), "label")
    found = checked(opened, teachers[:1], sample=1)
    assert found.wrong_labels == [("train", 3), ("train", 17)]
    assert found.wrong_logits == []
    assert not found.passed


def test_audit_with_the_teachers_in_another_order_fails(tmp_path: Path, teachers: list[SavedModel]):
    write(tmp_path, options(), teachers[:2])
    found = checked(open_transfer_set(tmp_path), teachers[1::-1])
    assert len(found.wrong_logits) == found.rows


def test_teachers_are_run_in_all_bits_of_float32(teachers: list[SavedModel]):
    seen: list[str] = []
    convolutions = torch.backends.cudnn.conv
    hook = teachers[0].model.register_forward_hook(
        lambda *_: seen.append(convolutions.fp32_precision)
    )
    raw_logits(teachers, [DATASET.train.images[:2]], ALONE.device)
    hook.remove()
    assert seen == ["ieee"]
    assert convolutions.fp32_precision != "ieee"
