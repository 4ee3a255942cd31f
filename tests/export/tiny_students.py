"""Untrained students whose batch norms have statistics, some of them with a negative factor."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tiny import quantizer_options
from torch import nn

from kd_ray import deployed
from kd_ray.config import QuantizerOptions
from kd_ray.export.lower import lowered
from kd_ray.export.net import Operation
from kd_ray.export.packed import write_packed
from kd_ray.models import build_model
from kd_ray.quant import calibrate_, quantize_
from kd_ray.training.feed import normalized

SHAPE = (3, 12, 12)
MEAN, STD = (0.4, 0.5, 0.45), (0.2, 0.3, 0.25)
MODELS: dict[str, dict[str, Any]] = {
    "convnet": {"groups": [[6], [10, 12]]},
    "resnet20": {"width": 4},
    "mlp": {"hidden": [20, 24]},
}
METHODS = [(model, method) for model in MODELS for method in ("dorefa", "megvii", "lsq", "pact")]
METHODS.remove(("mlp", "megvii"))  # which needs batch norm


def tiny_student(model: str, quantizer: QuantizerOptions | None, seed: int = 0) -> nn.Module:
    """A student in evaluation mode, for pictures of `SHAPE` and ten classes."""
    network = build_model(model, MODELS[model], shape=SHAPE, classes=10, seed=seed)
    if quantizer is not None:
        quantize_(network, quantizer, SHAPE)
    return with_statistics_(network, seed)


def eight_bit_ends(model: str, method: str, bits: tuple[int, int] = (2, 2)) -> nn.Module:
    """A student of few bits whose first and last layer have 8."""
    student = tiny_student(model, quantizer_options(method, *bits, first_last_bits=8))
    calibrate_(student, images_of(pictures()))
    return student


@torch.no_grad()
def with_statistics_(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode whose batch norms were drawn."""
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=draw)
            module.running_var.uniform_(0.5, 30, generator=draw)
            module.weight.normal_(1, 1, generator=draw)
            module.bias.normal_(generator=draw)
    return network.eval()


def pictures(rows: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    drawn = np.random.default_rng(seed).integers(0, 256, (rows, *SHAPE), np.uint8)
    return np.asarray(drawn, np.uint8)


def images_of(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return normalized(torch.from_numpy(pixels), torch.tensor(MEAN), torch.tensor(STD))


def torch_logits(network: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What torch evaluates a network to."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(images_of(pixels)).numpy()
    return logits


def steps_of(network: nn.Module) -> list[Operation]:
    return lowered(network, SHAPE, MEAN, STD)


def packed(folder: Path, network: nn.Module) -> Path:
    """The file of a packed student."""
    file = folder / "student.packed.safetensors"
    names = [str(number) for number in range(10)]
    write_packed(file, steps_of(network), {"shape": SHAPE, "class_names": names})
    return file


def read(folder: Path, network: nn.Module) -> deployed.Student:
    return deployed.load(packed(folder, network))
