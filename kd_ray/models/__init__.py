"""The model catalogue: names and options of a recipe to modules with fresh, seeded weights.

Every model is an ordinary module from images `(N, C, H, W)` to logits `(N, K)`. A name that is not
in `MODELS` is looked for among torchvision's classification models.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd_ray.catalog import call_problems, suggestion
from kd_ray.errors import ConfigError, UnknownNameError
from kd_ray.models.convnet import convnet, resnet
from kd_ray.models.mlp import mlp, project_
from kd_ray.models.zoo import zoo_model, zoo_names

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet20": partial(resnet, 3),
    "resnet32": partial(resnet, 5),
    "resnet56": partial(resnet, 9),
}
GIVEN = ("shape", "classes")
# Large enough for every option that suits any image: only options are checked on it.
_ANY_SHAPE = (3, 2**12, 2**12)
DRAWS = (Tensor.normal_, Tensor.uniform_)


def build_model(
    name: str, options: Mapping[str, Any], *, shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """A model on the CPU whose weights are a function of the arguments alone.

    Args:
        name: a key of `MODELS`, or a torchvision classification model.
        options: keyword arguments of the entry; torchvision's models take none.
        shape: `(C, H, W)` of an image.
        classes: K.
        seed: seed of the weights; the process's own random state is left as it was.

    Raises:
        UnknownNameError: no such model.
        ConfigError: an option breaks a rule, or the model does not take such images.
    """
    _check_name(name)
    if problems := _option_problems(f"model '{name}'", name, options):
        raise ConfigError("; ".join(problems))
    # Only the CPU's generator: torch.manual_seed would reseed the accelerators as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            if name in MODELS:
                _check_memory(parameter_count(_weightless(name, shape, classes, options)))
                return MODELS[name](shape=shape, classes=classes, **options)
            return zoo_model(name, shape=shape, classes=classes)
        except ConfigError as error:
            raise ConfigError(f"model '{name}': {error}") from error


def model_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the model at a dotted place of a recipe, one sentence each.

    Whether the model takes the images is left to `build_model`, which knows their shape.
    """
    try:
        _check_name(name)
    except UnknownNameError as error:
        return [f"{where}.name: {error}"]
    problems = _option_problems(where, name, options)
    if problems or name not in MODELS:
        return problems
    try:
        _, *others = _weightless(name, _ANY_SHAPE, 2, options).parameters()
        _check_memory(sum(weights.numel() for weights in others))  # whatever the images' size
    except ConfigError as error:
        return [f"{where}: {error}"]
    return []


def _weightless(
    name: str, shape: tuple[int, int, int], classes: int, options: Mapping[str, Any]
) -> nn.Module:
    """The model on the meta device, where one of any size costs no memory."""
    with torch.device("meta"), _NothingDrawn():
        return MODELS[name](shape=shape, classes=classes, **options)


def _check_memory(weights: int) -> None:
    """Refuses weights that, with their gradients, no memory of this machine could hold."""
    has = psutil.virtual_memory().total
    if 8 * weights > has:
        raise ConfigError(
            f"its {weights:,} weights need {4 * weights / 1e9:,.0f} GB, and their gradients as "
            f"much again, but this machine has {has / 1e9:.0f} GB; choose smaller layers"
        )


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of weights, which on the meta device imports a compiler first."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _check_name(name: str) -> None:
    if name in MODELS:
        return
    names = [*MODELS, *zoo_names()]
    if name not in names:
        raise UnknownNameError(f"unknown model '{name}'; {suggestion(name, names)}")


def _option_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    if name in MODELS:
        return call_problems(where, MODELS[name], options, given=GIVEN)
    return [
        f"{where}.{key}: torchvision's models take no options, but got {value!r}; leave it out"
        for key, value in options.items()
    ]
