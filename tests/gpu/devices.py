"""What the tests of a device share, and `benchmarks/gpu.py` with them.

Nothing here needs more than torch, pytest and the project. With KD_RAY_TEST_DEVICE=cpu the tests
hold the CPU against itself, which shows that they run.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_ray.batch import UNLABELLED
from kd_ray.config import Objective, QuantizerOptions, StudentTrain
from kd_ray.datasets import Dataset, Split
from kd_ray.models import build_model, placed
from kd_ray.quant import calibrate_, quantize_
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.checkpoint import OPTIMIZER, WEIGHTS, Meta, ModelInput
from kd_ray.training.epoch import Turn
from kd_ray.training.feed import TensorFeed
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Training
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.schedule import make_schedule
from kd_ray.training.workers import Worker

DEVICE = torch.device(os.environ.get("KD_RAY_TEST_DEVICE", "cuda"))
CPU = torch.device("cpu")
IS_THERE = DEVICE.type != "cuda" or torch.cuda.is_available()
needs_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IS_THERE, reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),  # a device has advice of its own
]
SHAPE, K = (3, 16, 16), 5
Nets = Mapping[str, tuple[str, dict[str, Any], dict[str, Any] | None]]
"""Title of a student -> its model, options and quantizer."""

NETS: Nets = {
    "mlp": ("mlp", {"hidden": [64, 64]}, None),
    "convnet": ("convnet", {"groups": [[8], [16, 16]]}, None),
    "W2 A2": (
        "convnet",
        {"groups": [[8], [16, 16]]},
        {"method": "dorefa", "weight_bits": 2, "activation_bits": 2},
    ),
}


def alone(device: torch.device = DEVICE) -> Worker:
    return Worker(rank=0, world=1, device=device, threads=1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(
    count: int = 96,
    shape: tuple[int, int, int] = SHAPE,
    classes: int = K,
    hidden: int = 0,
    **changes: Any,
) -> TensorFeed:
    """Random images with labels, every `hidden`-th of them hidden, and logits of two teachers."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    if hidden:
        labels[::hidden] = UNLABELLED
    views = changes.get("views", 1)
    fields = {
        "pixels": torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8),
        "labels": labels,
        "index": torch.arange(count),
        "mean": torch.full(shape[:1], 0.5),
        "std": torch.full(shape[:1], 0.25),
        "logits": 3 * torch.randn(count, views, 2, classes, generator=generator),
    }
    return TensorFeed(**{**fields, **changes})


def network(
    net: str = "mlp",
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    classes: int = K,
    nets: Nets = NETS,
) -> nn.Module:
    """A new one of the nets, on the CPU."""
    name, options, quantizer = nets[net]
    model = build_model(name, options, shape=shape, classes=classes, seed=seed)
    if quantizer is not None:
        quantize_(model, QuantizerOptions.model_validate(quantizer), shape)
        calibrate_(model, draw(32, *shape))
    return model


def turn(model: nn.Module, feed: TensorFeed, device: torch.device = DEVICE, **train: Any) -> Turn:
    """An epoch of a student's, with its rows and weights on a device."""
    fields: dict[str, Any] = {"batch_size": 32, "optimizer": "sgd", "precision": "fp32", "lr": 0.01}
    options = StudentTrain.model_validate({**fields, **train})
    model = placed(model, device)
    return Turn(
        Training(model, make_optimizer(model, options)),
        feed.to(device),
        BatchLoss(Objective(temperature=4.0, hard_weight=0.5), options.label_smoothing),
        options,
        make_schedule(options.schedule.name, options.schedule.options),
        seed=0,
    )


def description(
    net: str = "mlp",
    shape: tuple[int, int, int] = SHAPE,
    classes: int = K,
    nets: Nets = NETS,
    parents: Mapping[str, str] | None = None,
) -> Meta:
    """What a checkpoint says of a model of `network`."""
    name, options, quantizer = nets[net]
    return Meta(
        kind="student",
        model={"name": name, **options},
        quantizer=quantizer,
        input=ModelInput(shape=shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0]),
        class_names=[str(number) for number in range(classes)],
        recipe={},
        identity={},
        parents=dict(parents or {}),
    )


def dataset(feed: TensorFeed, classes: int = K, test: int = 40) -> Dataset:
    """The rows of a feed as they were before they were labelled."""
    assert isinstance(feed.pixels, Tensor)
    sizes = (("train", feed.rows), ("validation", 0), ("test", test))
    splits = [Split(name, feed.pixels[:count], feed.labels[:count]) for name, count in sizes]
    return Dataset("random", tuple(map(str, range(classes))), *splits)


def teacher(model: nn.Module, about: Meta, number: int, device: torch.device) -> SavedModel:
    """A network as if it had been read from a checkpoint."""
    files = {WEIGHTS: f"{number:064d}", OPTIMIZER: "0" * 64}
    about = about.model_copy(update={"files": files})
    return SavedModel(Path("teacher"), about, placed(model, device).eval())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def check_close(found: Any, wanted: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Holds what a device has computed against the CPU's."""
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, check_device=False)
