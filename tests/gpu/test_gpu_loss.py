"""Losses and quantizers on a device are the CPU's, with their gradients."""

from typing import Any

import pytest
import torch
from devices import DEVICE, NETS, K, alone, check_close, draw, needs_device, network, rows
from torch import Tensor

from kd_ray.batch import Batch
from kd_ray.config import Objective
from kd_ray.quant.dorefa import dorefa_activations, dorefa_weights
from kd_ray.quant.lsq import lsq, lsq_levels
from kd_ray.quant.megvii import megvii_activations, megvii_weights
from kd_ray.quant.pact import pact
from kd_ray.quant.ranges import range_weights
from kd_ray.training.batch_loss import BatchLoss, losses_of_all
from kd_ray.training.losses import Ensemble

pytestmark = needs_device
OBJECTIVES: dict[str, dict[str, Any]] = {
    "hinton": {"temperature": 4.0, "hard_weight": 0.5},
    "hard": {"soft_weight": 0},
    "labels at T": {"targets": "labels", "temperature": 2.0},
    "geometric": {"ensemble": "geometric", "temperature": 3.0},
    **{name: {"name": name, "temperature": 2.0} for name in ("dkd", "dist", "ttm", "wttm")},
    "standardized": {"name": "standardized", "temperature": 2.0},
}
QUANTIZERS = {
    "dorefa weights": lambda x: dorefa_weights(x, 2),
    "dorefa signs": lambda x: dorefa_weights(x, 1),
    "dorefa activations": lambda x: dorefa_activations(x, 2),
    "megvii weights": lambda x: megvii_weights(x, 2),
    "megvii activations": lambda x: megvii_activations(10 * x, 2),
    "lsq": lambda x: lsq(x, x.new_tensor(0.3), lsq_levels(3, signed=True)),
    "pact": lambda x: pact(x, x.new_tensor(1.5), 2),
    "range": lambda x: range_weights(x, 8),
}


def batch_on(device: torch.device, hidden: int) -> Batch:
    return next(rows(32, hidden=hidden).to(device).batches(0, 1, 32, 0, alone().part_of))


def loss_and_gradient(device: torch.device, loss: BatchLoss, hidden: int) -> list[Tensor]:
    logits = draw(32, K).to(device).requires_grad_()
    found = loss(logits, batch_on(device, hidden), 0.5)
    (gradient,) = torch.autograd.grad(found.total, logits)
    return [found.total.detach(), found.hard, found.soft, gradient]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_its_gradient_are_those_of_the_cpu(name: str):
    ensemble = Ensemble(OBJECTIVES[name].get("ensemble", "arithmetic"), weights=(0.25, 0.75))
    loss = BatchLoss(Objective.model_validate(OBJECTIVES[name]), smoothing=0.1, ensemble=ensemble)
    hidden = 0 if name in ("dkd", "standardized") else 3
    on_device, on_cpu = (
        loss_and_gradient(device, loss, hidden) for device in (DEVICE, torch.device("cpu"))
    )
    for found, wanted in zip(on_device, on_cpu, strict=True):
        assert found.device.type == DEVICE.type
        check_close(found, wanted)


def test_losses_of_several_students_are_those_of_the_cpu():
    losses = [
        BatchLoss(
            Objective.model_validate({"soft_weight": 0} | OBJECTIVES[name]),
            0.0,
            Ensemble(weights=(0.1 * number, 1 - 0.1 * number)),
        )
        for number, name in enumerate(("hinton", "dkd", "hinton", "hard"))
    ]
    found, wanted = (
        losses_of_all(losses, draw(4, 32, K).to(device), [batch_on(device, 0)], [0.5] * 4)
        for device in (DEVICE, torch.device("cpu"))
    )
    for name in ("total", "hard", "soft"):
        check_close(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantized_values_and_gradients_are_those_of_the_cpu(name: str):
    ways = []
    for device in (DEVICE, torch.device("cpu")):
        x = draw(4000).to(device).requires_grad_()
        value = QUANTIZERS[name](x)
        (gradient,) = torch.autograd.grad((value * draw(4000, seed=1).to(device)).sum(), x)
        ways.append((value.detach().cpu(), gradient.cpu()))
    for found, wanted in zip(*ways, strict=True):
        # A value between two levels may fall to either side with the last bit of tanh.
        differing = (found - wanted).abs() > 1e-4
        assert float(differing.float().mean()) <= 0.001


@pytest.mark.parametrize("net", NETS)
def test_networks_answer_as_on_the_cpu(net: str):
    model = network(net).eval()
    images = draw(16, 3, 16, 16)
    with torch.inference_mode():
        wanted = model(images)
        found = model.to(DEVICE)(images.to(DEVICE)).cpu()
    differing = (found - wanted).abs() > 0.001 * wanted.abs().amax()
    # With few bits, a sum that falls to the other side of a level moves those behind it.
    assert float(differing.float().mean()) <= (0.1 if net == "W2 A2" else 0)
