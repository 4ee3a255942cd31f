"""Rows that are streamed: their order, their batches, and models that learn from them."""

import random
import secrets
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_digits import data, pack_digits, recipe
from tiny import ALONE, perform, tasks, weights_sha256, without_time

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint
from kd_ray.batch import Batch
from kd_ray.config import Augment, DataOptions
from kd_ray.datasets import PackedImages, open_dataset
from kd_ray.errors import ConfigError
from kd_ray.result import read_result
from kd_ray.runs import Finished
from kd_ray.training import epoch
from kd_ray.training.feed import TensorFeed, feed_of, taken
from kd_ray.training.order import cut, windows
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import open_transfer_set

STARTS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def starts_of(sizes: list[int]) -> list[int]:
    return [0, *torch.tensor(sizes).cumsum(0).tolist()]


# The order


@given(sizes=STARTS, groups=st.integers(1, 8), seed=st.integers(0, 2**62), epoch=st.integers(1, 9))
def test_an_epoch_shows_every_row_once_and_whole_groups_together(
    sizes: list[int], groups: int, seed: int, epoch: int
):
    starts = starts_of(sizes)
    shown = list(windows(starts, groups, seed, epoch))
    assert torch.cat([torch.arange(0), *shown]).sort().values.tolist() == list(range(starts[-1]))
    of_row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for window in shown:
        there = torch.bincount(of_row[window], minlength=len(sizes))
        assert ((there == 0) | (there == torch.tensor(sizes))).all()
        assert (there > 0).sum() <= groups


@given(sizes=STARTS, groups=st.integers(1, 8), first=st.integers(0, 100))
def test_an_epoch_that_begins_at_a_row_shows_what_comes_after_it(
    sizes: list[int], groups: int, first: int
):
    starts = starts_of(sizes)
    nothing = torch.empty(0, dtype=torch.int64)
    whole = torch.cat([nothing, *windows(starts, groups, 5, 2)])
    rest = torch.cat([nothing, *windows(starts, groups, 5, 2, first)])
    assert torch.equal(rest, whole[first:])


def test_windows_of_other_seeds_and_epochs_are_in_another_order():
    shown = [torch.cat(list(windows([0, 50, 100], 1, *key))) for key in ((0, 1), (0, 2), (1, 1))]
    assert not any(torch.equal(one, other) for one, other in pairwise([*shown, shown[0]]))


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 7))
def test_cut_changes_no_row(sizes: list[int], size: int):
    parts = torch.split(torch.arange(sum(sizes)), sizes)
    pieces = list(cut(parts, [size] * (sum(sizes) // size)))
    assert all(len(piece) == size for piece in pieces)
    assert torch.cat([torch.arange(0), *pieces]).tolist() == list(range(size * len(pieces)))


# Batches


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_digits(tmp_path_factory.mktemp("packed") / "digits")


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedImages, "window_groups", 8)


def streamed(folder: Path, hold: str = "stream", **changes: Any) -> TensorFeed:
    dataset = open_dataset(DataOptions.model_validate(data(folder, hold)))
    feed = feed_of(dataset.train, dataset.mean, dataset.std)
    return TensorFeed(**vars(feed) | {"views": 2, "augment": Augment(shift=1), **changes})


def same(ours: Batch, theirs: Batch) -> bool:
    pairs = [(ours.images, theirs.images), (ours.labels, theirs.labels)]
    return all(torch.equal(*pair) for pair in pairs) and ours.global_rows == theirs.global_rows


@settings(max_examples=10, deadline=None)
@given(world=st.integers(1, 5), size=st.integers(5, 150), epoch=st.integers(1, 3), data=st.data())
def test_streamed_batches_are_those_in_memory_for_any_number_of_workers_and_from_any_step_on(
    digits: Path, world: int, size: int, epoch: int, data: st.DataObject
):
    feed, memory = streamed(digits), streamed(digits, "host")
    assert isinstance(feed.pixels, PackedImages)
    alone = [rows.sort().values for rows in shown_by(feed, size, epoch)]
    first = data.draw(st.integers(0, len(alone) - 1))
    workers = [Worker(rank, world, ALONE.device, 1) for rank in range(world)]
    each = [feed.batches(3, epoch, size, first, worker.part_of) for worker in workers]
    for rows, *parts in zip(alone[first:], *each, strict=True):
        for worker, part in zip(workers, parts, strict=True):
            assert same(part, memory.batch(rows, worker.part_of(len(rows)), epoch))


def shown_by(feed: TensorFeed, size: int, epoch: int) -> Iterator[torch.Tensor]:
    """The rows of each batch, told by what is drawn."""
    images = feed.pixels
    assert isinstance(images, PackedImages)
    steps = -(-feed.rows // size)
    bounds = [feed.rows * step // steps for step in range(steps + 1)]
    sizes = [stop - start for start, stop in pairwise(bounds)]
    return cut(windows(images.starts.tolist(), 8, 3, epoch), sizes)


def test_groups_in_memory_are_never_more_than_two_windows(
    digits: Path, monkeypatch: pytest.MonkeyPatch
):
    feed, read, held, most = streamed(digits), PackedImages._read, list[weakref.ref[Any]](), [0]

    def watched(self: PackedImages, group: int) -> Any:
        found = read(self, group)
        held.append(weakref.ref(found))
        most[0] = max(most[0], sum(each() is not None for each in held))
        return found

    monkeypatch.setattr(PackedImages, "_read", watched)
    assert sum(len(batch.labels) for batch in feed.batches(0, 1, 32, 0, slice)) == feed.rows
    assert 8 < most[0] <= 16


def test_workers_may_be_more_than_the_row_groups(digits: Path):
    few = torch.arange(12)  # of one group
    feed = taken(streamed(digits), few)
    workers = [Worker(rank, 4, ALONE.device, 1) for rank in range(4)]
    each = [list(feed.batches(0, 1, 12, 0, worker.part_of)) for worker in workers]
    assert [len(batch.labels) for (batch,) in each] == [3, 3, 3, 3]
    assert same(feed.batch(few, slice(0, 3), 1), each[0][0])


def test_a_window_smaller_than_a_batch_is_refused(digits: Path):
    with pytest.raises(ConfigError, match=r"at least those of a batch \(200\), but .* are 160;"):
        next(streamed(digits).batches(0, 1, 200, 0, slice))


# Models


def figures(todo: list[Any]) -> list[Any]:
    return [e.result for _, e in perform(todo) if isinstance(e, Finished)]


def test_every_stage_takes_streamed_rows(digits: Path, tmp_path: Path):
    results = {}
    for hold in ("stream", "host"):
        results[hold] = figures(tasks(recipe(digits, hold), tmp_path / hold))
    ours, theirs = ([r.metrics.get("accuracy") for r in results[h]] for h in ("stream", "host"))
    assert all(one is None or one > 0.75 for one in (*ours, *theirs)), (ours, theirs)
    run = tmp_path / "stream"
    assert audit_transfer_set(run / "transfer_set").passed
    checkpoint = run / "student" / "distilled" / "seed-0"
    assert evaluate_checkpoint(checkpoint)["accuracy"] == ours[-1]


def test_labels_of_a_packed_dataset_are_the_same_bytes_however_it_is_held(
    digits: Path, tmp_path: Path
):
    teach, label, _ = tasks(recipe(digits, "host"), tmp_path / "one")
    perform([teach, label])
    _, again, _ = tasks(recipe(digits, "stream"), tmp_path / "one")
    whole = {path.name: path.read_bytes() for path in label.folder.glob("*.parquet")}
    for path in label.folder.iterdir():
        path.unlink()
    perform([again])
    assert {path.name: path.read_bytes() for path in label.folder.glob("*.parquet")} == whole


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_logits_on_a_disk_are_those_in_memory(digits: Path, tmp_path: Path, dtype: str):
    made = recipe(digits, "host")
    stored = made.transfer_set.model_copy(update={"dtype": dtype})
    todo = tasks(made.model_copy(update={"transfer_set": stored}), tmp_path)
    perform(todo[:2])
    memory = open_transfer_set(todo[1].folder)
    disk = open_transfer_set(todo[1].folder, on_disk=True)
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(disk, split).logits, getattr(memory, split).logits
        assert str(ours.dtype) == f"torch.{dtype}"
        assert torch.equal(ours.float(), theirs)


RUN = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from kd_ray.datasets.packed.images import PackedImages
from kd_ray.runs import train
from kd_ray.training import epoch
from packed_digits import recipe
from tiny import perform, tasks
epoch.LEG_STEPS, train.LEG_S = 3, 0.0
PackedImages.window_groups = 8
following = PackedImages.follow
def slowly(self, pieces):
    for images in following(self, pieces):
        time.sleep(0.004)
        yield images
PackedImages.follow = slowly
perform(tasks(recipe(Path({folder!r}), "stream"), Path({run!r})))
"""


@pytest.mark.slow
def test_a_training_killed_within_streamed_epochs_ends_with_the_bits_of_one_that_was_not(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(epoch, "LEG_STEPS", 3)
    whole = tasks(recipe(digits, "stream"), tmp_path / "whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    perform(whole)
    torch.set_num_threads(threads)
    torn = tasks(recipe(digits, "stream"), tmp_path / "torn")
    tests = str(Path(__file__).parent.parent)
    program = RUN.format(tests=tests, folder=str(digits), run=str(tmp_path / "torn"))
    seed, within = secrets.randbits(32), 0
    draw = random.Random(seed)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program])
        folder = torn[0].folder if read_result(torn[0].folder) is None else torn[2].folder
        for _ in range(600):
            if process.poll() is not None or (folder / "under-way" / "meta.json").is_file():
                break
            time.sleep(0.05)
        time.sleep(draw.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        within += (folder / "under-way" / "meta.json").is_file()
    sys.stdout.write(f"killed within an epoch {within} times of 5, at moments of seed {seed}\n")
    assert within
    subprocess.run([sys.executable, "-c", program], check=True)
    for ours, theirs in zip(torn, whole, strict=True):
        one, other = read_result(ours.folder), read_result(theirs.folder)
        assert one is not None
        assert other is not None
        if one.history:
            assert weights_sha256(ours.folder) == weights_sha256(theirs.folder)
            assert without_time(one.history) == without_time(other.history)
