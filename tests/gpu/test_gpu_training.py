"""Trainings on a device: what they learn, what they keep, and that no step waits."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import (
    CPU,
    DEVICE,
    NETS,
    alone,
    check_close,
    description,
    draw,
    needs_device,
    network,
    rows,
    turn,
    weights_of,
)

from kd_ray.batch import Batch
from kd_ray.config import Augment
from kd_ray.training.checkpoint import restore, save
from kd_ray.training.epoch import Turn, autocast, train_epoch
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.fused import most_in_memory, obstacle, train_together
from kd_ray.training.loop import fit
from kd_ray.training.progress import Epoch
from kd_ray.training.saved_model import load_model

pytestmark = needs_device


def trained(net: str, device: torch.device, feed: TensorFeed, **train: Any) -> Turn:
    """A student behind its first epoch."""
    one = turn(network(net), feed, device, **train)
    list(train_epoch(one, one.training.model, alone(device)))
    return one


@pytest.mark.parametrize("net", NETS)
def test_an_epoch_on_a_device_is_that_of_the_cpu(net: str):
    feed = rows(hidden=5)
    found, wanted = (trained(net, device, feed, lr=1e-4) for device in (DEVICE, CPU))
    for name, figure in wanted.figures().items():
        assert found.figures()[name] == pytest.approx(figure, rel=0.02, abs=0.02), name
    losses = [
        evaluate(one.training.model, feed.to(device), alone(device))["loss"]
        for one, device in ((found, DEVICE), (wanted, CPU))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(("first", "then"), [(DEVICE, CPU), (CPU, DEVICE)], ids=["to CPU", "back"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_goes_on_elsewhere_from_its_checkpoint(
    first: torch.device, then: torch.device, optimizer: str, tmp_path: Path
):
    before = trained("convnet", first, rows(), optimizer=optimizer, lr=1e-3)
    before.training.note(Epoch(1, before.figures(), seconds=1.0, images_per_s=1.0))
    path = save(tmp_path, description("convnet"), before.training)
    after = turn(network("convnet", seed=1), rows(), then, optimizer=optimizer, lr=1e-3)
    restore(path, after.training)
    wanted = weights_of(before.training.model)
    found = weights_of(after.training.model)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    loaded = weights_of(load_model(path, then).model)
    assert all(torch.equal(loaded[name], value) for name, value in wanted.items())
    states = [each.training.optimizer.state_dict()["state"] for each in (before, after)]
    for number, mine in states[0].items():
        for name, value in mine.items():
            assert torch.equal(states[1][number][name].cpu(), value.cpu())
    for each, device in ((before, first), (after, then)):
        list(train_epoch(each, each.training.model, alone(device)))
    check_close(
        torch.tensor(after.figures()["train_loss"]),
        torch.tensor(before.figures()["train_loss"]),
        rtol=0.02,
    )


@pytest.mark.parametrize("net", NETS)
def test_students_trained_as_one_learn_what_each_learns_alone(net: str):
    def students() -> list[Turn]:
        return [turn(network(net, seed), rows(), lr=1e-5) for seed in range(3)]

    together, each = students(), students()
    assert obstacle(together, alone()) is None
    assert DEVICE.type != "cuda" or most_in_memory(together) >= 3
    list(train_together(together, alone()))
    for one, other in zip(together, each, strict=True):
        list(train_epoch(other, other.training.model, alone()))
        assert one.figures()["train_loss"] == pytest.approx(other.figures()["train_loss"], rel=0.01)


def test_automatic_precision_is_bf16_where_the_device_has_it():
    model, images = network().to(DEVICE), draw(4, 3, 16, 16).to(DEVICE)
    has = DEVICE.type == "cuda" and torch.cuda.is_bf16_supported()
    with autocast("auto", DEVICE):
        assert model(images).dtype == (torch.bfloat16 if has else torch.float32)
    losses = {
        precision: trained("mlp", DEVICE, rows(), precision=precision).figures()["train_loss"]
        for precision in ("fp32", "bf16")
    }
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_compiled_student_learns_what_another_learns():
    losses = {}
    for compiled in (False, True):
        one = turn(network(), rows(), epochs=1, compile=compiled)
        events = fit(
            *(one.training, one.feed, one.objective, one.options),
            seed=0,
            worker=alone(),
        )
        losses[compiled] = [e.metrics["train_loss"] for e in events if isinstance(e, Epoch)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@dataclass(frozen=True)
class Watched:
    """A feed between whose batches nothing may wait for the device."""

    feed: TensorFeed
    rows: int = 96

    def batches(self, *arguments: Any) -> Iterator[Batch]:
        is_device = DEVICE.type == "cuda"
        inner = self.feed.batches(*arguments)
        yield next(inner)  # the first step makes what the others find
        if is_device:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is a prototype
                torch.cuda.set_sync_debug_mode("error")
        try:
            yield from inner
        finally:
            if is_device:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("hold", ["device", "host"])
def test_no_step_waits_for_the_device(net: str, hold: Any):
    def student(seed: int) -> Turn:
        made = turn(network(net, seed), rows(), optimizer="adam", grad_clip=1.0)
        feed = rows(96, hidden=5, views=2, augment=Augment(shift=1, rotate=5.0))
        made.training.epoch = 1  # so that a view is rendered
        return replace(made, feed=Watched(feed.held(DEVICE, hold)))

    one = student(0)
    list(train_epoch(one, one.training.model, alone()))
    several = [student(seed) for seed in range(3)]
    list(train_together(several, alone()))
    assert all(each.figures()["train_loss"] > 0 for each in (one, *several))
