"""A group of one worker, with the back end that a device has: NCCL, or gloo on the CPU."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from devices import DEVICE, check_close, draw, needs_device, network
from torch import Tensor

from kd_ray.training.workers import distributed, from_first, together

pytestmark = needs_device


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_sums_and_messages_go_through_the_group():
    values = draw(5).double().to(DEVICE)
    wanted = values.clone()
    dist.all_reduce(values)
    assert torch.equal(values, wanted)
    shared = torch.tensor([7], device=DEVICE)
    dist.broadcast(shared, src=0)
    assert from_first(int(shared), DEVICE) == 7
    with together(DEVICE):
        pass


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("net", ["mlp", "W2 A2"])
def test_gradients_of_a_group_of_one_are_those_of_the_model(net: str):
    images = draw(8, 3, 16, 16).to(DEVICE)

    def gradients(grouped: bool) -> list[Tensor]:
        model = network(net).to(DEVICE)
        run = distributed(model, model) if grouped else model
        run(images).square().mean().backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for found, wanted in zip(gradients(True), gradients(False), strict=True):
        check_close(found, wanted, rtol=1e-3)
