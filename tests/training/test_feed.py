from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ALONE, tiny_feed, tiny_split
from torch import Tensor

from kd_ray.batch import UNLABELLED, Batch
from kd_ray.config import Augment
from kd_ray.datasets import render
from kd_ray.training.feed import feed_of, normalized
from kd_ray.training.order import batch_bounds, shuffled
from kd_ray.training.workers import Worker

AUGMENT = Augment(shift=1, flip=True)
ALL = slice(None)


def order_of(rows: int, seed: int = 0) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def joined(parts: list[Batch], name: str) -> Tensor:
    return torch.cat([getattr(part, name) for part in parts])


@given(world=st.integers(1, 5), rows=st.integers(1, 24), epoch=st.integers(1, 4))
def test_batch_is_the_same_however_workers_split_it(world: int, rows: int, epoch: int):
    feed = tiny_feed(24, views=3, augment=AUGMENT)
    feed.labels[::5] = UNLABELLED
    order = order_of(24)[:rows]
    whole = feed.batch(order, ALL, epoch)
    workers = [Worker(rank, world, ALONE.device, 1) for rank in range(world)]
    parts = [feed.batch(order, worker.part_of(rows), epoch) for worker in workers]
    for name in ("images", "labels", "teacher_logits"):
        assert torch.equal(joined(parts, name), getattr(whole, name))
    for part in parts:
        assert part.global_rows == rows
        assert part.global_labelled == whole.global_labelled


@given(st.sets(st.integers(0, 23)), st.integers(0, 24))
def test_batch_counts_the_labelled_rows_of_the_whole_batch(hidden: set[int], rows: int):
    feed = tiny_feed(24)
    feed.labels[sorted(hidden)] = UNLABELLED
    order = order_of(24)[:rows]
    batch = feed.batch(order, slice(0, rows // 2), 1)
    assert batch.global_labelled == len(set(order.tolist()) - hidden)
    assert batch.global_rows == rows


def test_batch_joins_each_row_with_its_own_label_pixels_and_logits():
    feed = tiny_feed(24)
    order = order_of(24)
    batch = feed.batch(order, ALL, 1)
    assert feed.logits is not None
    assert batch.teacher_logits is not None
    assert torch.equal(batch.labels, feed.labels[order])
    assert torch.equal(batch.teacher_logits, feed.logits[order, 0])
    assert torch.equal(batch.images[0], feed.batch(order[:1], ALL, 1).images[0])


def test_batch_without_teacher_has_no_logits():
    feed = feed_of(tiny_split("train", 6), (0.4,), (0.2,))
    assert feed.rows == 6
    assert feed.batch(order_of(6), ALL, 1).teacher_logits is None


@pytest.mark.parametrize("views", [1, 2, 5])
def test_view_goes_through_the_stored_views_in_turn_beginning_with_the_plain_one(views: int):
    feed = tiny_feed(views=views)
    assert [feed.view(epoch) for epoch in range(1, 2 * views + 1)] == [*range(views)] * 2


def test_view_of_a_fresh_feed_is_new_in_every_epoch_and_never_plain():
    feed = tiny_feed(views=1)
    fresh = replace(feed, views="fresh")
    assert [fresh.view(epoch) for epoch in (1, 2, 50)] == [1, 2, 50]


def test_batch_shows_the_pixels_that_the_view_renders():
    feed = replace(tiny_feed(), views="fresh", augment=AUGMENT, seed=4, logits=None)
    order = order_of(24)
    plain = replace(feed, augment=Augment())
    for epoch in (1, 2):
        rendered = render(feed.pixels[order], feed.index[order], epoch, AUGMENT, seed=4)
        expected = replace(feed, pixels=rendered[order.argsort()], augment=Augment())
        assert torch.equal(
            feed.batch(order, ALL, epoch).images, expected.batch(order, ALL, 1).images
        )
        assert not torch.equal(
            feed.batch(order, ALL, epoch).images, plain.batch(order, ALL, 1).images
        )


def test_batch_of_stored_pixels_is_that_of_pixels_rendered_on_the_fly():
    fly = tiny_feed(views=3, augment=AUGMENT, seed=4, index=torch.arange(24) * 7 + 2)
    views = [render(fly.pixels, fly.index, view, AUGMENT, seed=4) for view in range(3)]
    stored = replace(fly, pixels=torch.stack(views, dim=1))
    order = order_of(24)
    for epoch in range(1, 5):
        ours, theirs = stored.batch(order, ALL, epoch), fly.batch(order, ALL, epoch)
        assert torch.equal(ours.images, theirs.images)
        assert ours.teacher_logits is not None
        assert theirs.teacher_logits is not None
        assert torch.equal(ours.teacher_logits, theirs.teacher_logits)


def test_batch_is_normalized_per_channel_to_mean_0_and_deviation_1():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 4, 4), generator=draw).to(torch.uint8)
    pixels[:, 1] //= 3
    share = pixels.double() / 255
    mean = share.mean(dim=(0, 2, 3))
    std = share.std(dim=(0, 2, 3), correction=0)
    feed = replace(tiny_feed(50, logits=None), pixels=pixels, mean=mean.float(), std=std.float())
    images = feed.batch(torch.arange(50), ALL, 1).images
    assert images.dtype == torch.float32
    expected = (share - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(images, expected.float(), rtol=1e-5, atol=1e-5)
    assert images.double().mean(dim=(0, 2, 3)) == pytest.approx([0.0] * 3, abs=1e-6)
    assert images.double().std(dim=(0, 2, 3), correction=0) == pytest.approx([1.0] * 3, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalized_images_are_those_of_a_batch_to_the_last_bit(channels: int):
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (40, channels, 16, 16), generator=draw).to(torch.uint8)
    mean, std = torch.rand(channels, generator=draw), torch.rand(channels, generator=draw) + 0.1
    feed = replace(tiny_feed(40, logits=None), pixels=pixels, mean=mean, std=std)
    images = normalized(pixels, mean, std)
    assert torch.equal(images, feed.batch(torch.arange(40), ALL, 1).images)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_to_moves_every_tensor():
    moved = tiny_feed().to(torch.device("meta"))
    tensors = [value for value in vars(moved).values() if isinstance(value, Tensor)]
    assert len(tensors) == 6
    assert all(tensor.is_meta for tensor in tensors)


@given(
    world=st.integers(1, 4),
    size=st.integers(4, 30),
    epoch=st.integers(1, 4),
    first=st.integers(0, 5),
)
def test_batches_of_an_epoch_are_the_same_from_any_step_on_and_for_any_number_of_workers(
    world: int, size: int, epoch: int, first: int
):
    feed = tiny_feed(24, views=2, augment=AUGMENT)
    workers = [Worker(rank, world, ALONE.device, 1) for rank in range(world)]
    each = [list(feed.batches(3, epoch, size, first, worker.part_of)) for worker in workers]
    order, bounds = shuffled(24, 3, epoch), batch_bounds(24, size)
    assert len(each[0]) == len(bounds[first:])
    for (start, stop), *parts in zip(bounds[first:], *each, strict=True):
        whole = feed.batch(order[start:stop], ALL, epoch)
        for name in ("images", "labels", "teacher_logits"):
            assert torch.equal(joined(parts, name), getattr(whole, name))
