"""A model as `torch.export` keeps it, for those who stay with torch: any that it can list."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.export.net import Array
from kd_ray.export.runtimes import in_pieces
from kd_ray.training.feed import normalized

ABOUT = "kd-ray.json"
"""The extra file with what a package says of its student."""


class Deployed(nn.Module):
    """A model of uint8 pixels, with their normalization inside.

    Args:
        model: in evaluation mode, on the CPU; it stays as it is.
        mean: `(C,)` of the pixels in [0, 1].
        std: as `mean`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = copy.deepcopy(model)
        # A package has tensors as they lie in memory, and warns of channels that come last.
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.contiguous()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits `(N, K)` float32 of pixels `(N, C, H, W)` uint8."""
        logits: Tensor = self.model(normalized(pixels, self.mean, self.std))
        return logits.float()


def write_pt2(
    file: Path, deployed: Deployed, shape: Sequence[int], about: Mapping[str, Any]
) -> None:
    """Writes a model that takes any number of pictures.

    Raises:
        ConfigError: torch cannot list its operations.
    """
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    sizes = ({0: torch.export.Dim("N")},)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            listed = torch.export.export(deployed.eval(), (example,), dynamic_shapes=sizes)
    except Exception as error:  # a model's own code is traced, which may do anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"pt2: torch.export cannot list the operations of this model ({reason[:160]}); write "
            "it without choices that depend on values"
        ) from error
    torch.export.save(listed, file, extra_files={ABOUT: json.dumps({"shape": shape, **about})})


def pt2_runner(file: Path) -> Callable[[Array], Array]:
    """Logits `(N, K)` of pixels `(N, C, H, W)` uint8 by torch.

    To load a package is to trust it: torch unpickles parts of it, and evaluates its shapes.

    Raises:
        CheckpointError: torch cannot read the file.
    """
    extra = {ABOUT: ""}
    try:
        with warnings.catch_warnings(action="ignore"):
            model = torch.export.load(file, extra_files=extra).module()
        about = json.loads(extra[ABOUT])
    except Exception as error:  # torch raises of many kinds
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{file}: must be a package of torch.export, but {reason}; export it again"
        ) from error

    def run(pixels: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(pixels)).numpy()
        return logits

    return in_pieces(run, about["shape"], len(about["class_names"]))
