"""A model back from its checkpoint, as its meta describes it, and its logits for uint8 images."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kd_ray.config import QuantizerOptions
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.files import reason_of, to_path
from kd_ray.models import build_model, placed
from kd_ray.models.dustbin import Specialist
from kd_ray.quant import quantize_
from kd_ray.training.checkpoint import MEND, META, WEIGHTS, Meta, load_weights, read_meta
from kd_ray.training.feed import normalized

FORWARD_ROWS = 256
"""Images at once: what a small network makes of more of them falls out of a CPU's caches."""

MANY_ROWS = 1024
"""Images at once on other devices, which many small calls would keep waiting."""


@dataclass(frozen=True)
class SavedModel:
    """A model in evaluation mode, and what its checkpoint says of it."""

    path: Path
    meta: Meta
    model: nn.Module

    @property
    def sha256(self) -> str:
        """Of the weights file; the identity of this model."""
        return self.meta.files[WEIGHTS]

    def normalization(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation `(C,)` of the pixels in [0, 1] that this model was trained on."""
        mean = torch.tensor(self.meta.input.mean, dtype=torch.float32, device=device)
        return mean, torch.tensor(self.meta.input.std, dtype=torch.float32, device=device)


def load_model(where: str | Path, device: torch.device) -> SavedModel:
    """The model of a checkpoint folder, or of its URL in a store, on a device.

    Raises:
        CheckpointError: the folder is no checkpoint, was altered, or is of an unknown architecture.
    """
    path = to_path(where)
    meta = read_meta(path)
    try:
        model = untrained(meta)
        if meta.quantizer is not None:
            options = QuantizerOptions.model_validate(meta.quantizer)
            quantize_(model, options, meta.input.shape)
    except ConfigError as error:  # it says what to do, which is not to remove the checkpoint
        raise CheckpointError(f"{path}: its model cannot be made here: {error}") from error
    except ValidationError as error:
        reason = f"must describe a model of this version, but {reason_of(error)}"
        raise CheckpointError(f"{path / META}: {reason}; {MEND}") from error
    if meta.special is not None:
        model = Specialist(model, meta.special, len(meta.class_names))
    load_weights(path, meta, model)
    return SavedModel(path, meta, placed(model, device).eval())


def untrained(meta: Meta) -> nn.Module:
    """The network that a checkpoint describes, in float and with weights as they are drawn.

    Raises:
        ConfigError: it cannot be made here.
    """
    return build_model(
        meta.model["name"],
        {key: value for key, value in meta.model.items() if key != "name"},
        shape=meta.input.shape,
        classes=len(meta.class_names),
        seed=0,
        mean=meta.input.mean,
        std=meta.input.std,
    )


def raw_logits(
    models: Sequence[SavedModel], pieces: Iterable[Tensor], device: torch.device
) -> Tensor:
    """Raw float32 logits `(N, M, K)`, on the CPU, of N images.

    Args:
        models: M of them, on the device.
        pieces: the images in order, `(n, C, H, W)` uint8 each, wherever they are.
        device: nothing waits for it before the last piece.
    """
    rows, found = FORWARD_ROWS if device.type == "cpu" else MANY_ROWS, list[Tensor]()
    scales = [saved.normalization(device) for saved in models]
    for piece in pieces:
        with torch.inference_mode(), full_float32():
            for part in torch.split(piece.to(device, non_blocking=True), rows):
                inputs = (normalized(part, *scale) for scale in scales)
                members = [saved.model(x).float() for saved, x in zip(models, inputs, strict=True)]
                found.append(torch.stack(members, dim=1))
    return torch.cat(found).cpu()


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions of the block multiply all 24 bits of float32, of which GPUs else leave out 13.

    What is stored is then the teacher's logits on any device, as an audit on another asks.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


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
