"""A model back from its checkpoint: architecture and shapes come from the checkpoint's own meta."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_ray.config import QuantizerOptions
from kd_ray.files import to_path
from kd_ray.models import build_model
from kd_ray.models.dustbin import Specialist
from kd_ray.quant import quantize_
from kd_ray.training.checkpoint import WEIGHTS, Meta, load_weights, read_meta


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
        CheckpointError: the folder is no checkpoint, or was altered.
        ConfigError: its architecture is unknown to this version.
    """
    path = to_path(where)
    meta = read_meta(path)
    options = {key: value for key, value in meta.model.items() if key != "name"}
    model: nn.Module = build_model(
        meta.model["name"],
        options,
        shape=meta.input.shape,
        classes=len(meta.class_names),
        seed=0,
    )
    if meta.quantizer is not None:
        quantize_(model, QuantizerOptions.model_validate(meta.quantizer), meta.input.shape)
    if meta.special is not None:
        model = Specialist(model, meta.special, len(meta.class_names))
    load_weights(path, meta, model)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return SavedModel(path, meta, model.eval())
