"""torchvision's classification models with a fresh head; importing them is slow, so it waits."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from kd_ray.errors import ConfigError

# These answer with several tensors while they train, unless these arguments switch it off.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def zoo_names() -> list[str]:
    """Names of torchvision's classification models; takes seconds the first time."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def zoo_model(name: str, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The torchvision model `name`, from `(N, C, H, W)` to logits `(N, K)`, with fresh weights.

    Raises:
        ConfigError: the model does not take such images.
    """
    import torchvision

    if shape[0] != 3:
        raise ConfigError(
            f"torchvision's models take images of 3 channels, but got {shape[0]}; "
            "choose one of kd-ray's own models"
        )
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {})
    )
    # It runs on the meta device, where only shapes are computed, whatever its size.
    tensors = chain(model.named_parameters(), model.named_buffers())
    weights = {name: tensor.detach().to("meta") for name, tensor in tensors}
    images = torch.empty(2, *shape, device="meta")
    try:
        with torch.no_grad():
            torch.func.functional_call(model, weights, images)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".!")
        raise ConfigError(
            f"images of {shape[1]} x {shape[2]} pixels do not go through it ({reason}); "
            "choose another model, or images of another size"
        ) from error
    return model
