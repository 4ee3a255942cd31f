"""Batches and views on a device are the CPU's."""

from typing import Any

import pytest
import torch
from devices import CPU, DEVICE, alone, check_close, needs_device, rows

from kd_ray.config import Augment
from kd_ray.datasets import render

pytestmark = needs_device
VIEWS: dict[str, dict[str, Any]] = {
    "shift": {"shift": 2},
    "crop and flip": {"crop": 2, "flip": True},
    "rotate": {"rotate": 15.0},
    "resized crop": {"resized_crop": [0.5, 1.0]},
    "color": {"color": 0.4},
    "all": {
        **{"shift": 1, "crop": 1, "flip": True, "rotate": 10.0},
        **{"resized_crop": [0.6, 1.0], "color": 0.2},
    },
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_have_the_same_pixels_on_every_device(name: str):
    feed, augment = rows(64), Augment.model_validate(VIEWS[name])
    assert isinstance(feed.pixels, torch.Tensor)
    there, index = feed.pixels.to(DEVICE), feed.index.to(DEVICE)
    of_each = torch.arange(64) % 3
    for view in (1, 7):
        wanted = render(feed.pixels, feed.index, view, augment, seed=3)
        assert torch.equal(render(there, index, view, augment, seed=3).cpu(), wanted)
        assert not torch.equal(wanted, feed.pixels)
    wanted = render(feed.pixels, feed.index, of_each, augment, seed=3)
    assert torch.equal(render(there, index, of_each.to(DEVICE), augment, seed=3).cpu(), wanted)


@pytest.mark.parametrize("hold", ["device", "host"])
@pytest.mark.parametrize("hidden", [0, 3])
def test_batches_on_a_device_are_those_of_the_cpu_in_the_same_order(hold: Any, hidden: int):
    feed = rows(90, hidden=hidden, views=2, augment=Augment(shift=1, flip=True))
    there = feed.held(DEVICE, hold)
    for epoch in (1, 2):
        ways = [each.batches(5, epoch, 32, 0, alone().part_of) for each in (there, feed)]
        for found, wanted in zip(*ways, strict=True):
            assert found.images.device.type == found.labels.device.type == DEVICE.type
            check_close(found.images, wanted.images, rtol=1e-6, atol=1e-6)
            assert torch.equal(found.labels.cpu(), wanted.labels)
            assert found.teacher_logits is not None
            assert torch.equal(found.teacher_logits.cpu(), wanted.teacher_logits)
            assert found.global_labelled == wanted.global_labelled


def test_rows_that_fit_are_held_on_the_device():
    assert rows().holding(DEVICE, "auto").where == "device"
    assert rows().holding(CPU, "auto").where == "device"
