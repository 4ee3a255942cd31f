"""torchvision's classification models with a fresh head; importing them is slow, so it waits."""

import inspect
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

from torch import nn

from kd_ray.catalog import suggestion
from kd_ray.config import InputOptions
from kd_ray.errors import ConfigError
from kd_ray.models.weights import Pretrained, state_sha256

# These answer with several tensors while they train, unless these arguments switch it off.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
GIVEN = ("num_classes", "aux_logits", "init_weights", "transform_input")


def zoo_names() -> list[str]:
    """Names of torchvision's classification models; takes seconds the first time."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def zoo_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of a torchvision model, one sentence each."""
    import torchvision

    network = inspect.signature(torchvision.models.get_model_builder(name)).return_annotation
    known = [key for key in inspect.signature(network).parameters if key not in GIVEN]
    return [
        f"{where}.{key}: unknown key; {suggestion(key, known)}"
        for key in options
        if key not in known
    ]


def zoo_model(
    name: str, options: Mapping[str, Any], shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """The torchvision model `name`, from `(N, C, H, W)` to logits `(N, K)`, with fresh weights.

    Raises:
        ConfigError: the model does not take such images.
    """
    import torchvision

    if shape[0] != 3:
        raise ConfigError(
            f"torchvision's models take images of 3 channels, but got {shape[0]}; "
            "choose one of kd-ray's own models, or give its input three means"
        )
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {}), **options
    )
    return model


def zoo_weights(name: str, options: Mapping[str, Any]) -> Pretrained:
    """The default weights of a torchvision model, from its cache or the network.

    Raises:
        ConfigError: it has none, or they cannot be had.
    """
    import torchvision

    kinds = torchvision.models.get_model_weights(name)
    if not len(kinds):
        raise ConfigError("torchvision has no weights of it; name a file, or leave weights out")
    chosen = kinds.DEFAULT
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ConfigError(
            f"its weights {chosen} are neither in torchvision's cache nor to be had ({error}); "
            "download them where there is a network, and name the file"
        ) from error
    auxiliary = ("AuxLogits.", "aux1.", "aux2.")
    state = {key: value for key, value in state.items() if not key.startswith(auxiliary)}
    shown = chosen.transforms()
    # With these weights torchvision's own loader has the two turn their input into such.
    centre = [0.5, 0.5, 0.5] if name in _ARGUMENTS else None
    wanted = InputOptions(
        size=shown.crop_size[0],
        mean=centre or list(shown.mean),
        std=centre or list(shown.std),
        interpolation=shown.interpolation.value,
    )
    return Pretrained(state, state_sha256(state), len(chosen.meta["categories"]), wanted)
