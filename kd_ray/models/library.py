"""Where models come from: the project itself, a dotted path, torchvision, timm, transformers.

Each is told by the name in a recipe, and does the same four things with it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from kd_ray.catalog import call_problems, suggestion
from kd_ray.errors import ConfigError, UnknownNameError, shown
from kd_ray.models.convnet import convnet, resnet
from kd_ray.models.hub import (
    HF,
    TIMM,
    hf_described,
    hf_model,
    hf_problems,
    hf_weights,
    timm_model,
    timm_problems,
    timm_weights,
)
from kd_ray.models.mlp import mlp
from kd_ray.models.weights import Pretrained
from kd_ray.models.zoo import zoo_model, zoo_names, zoo_problems, zoo_weights
from kd_ray.own_code import explained, imported, is_dotted

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet20": partial(resnet, 3),
    "resnet32": partial(resnet, 5),
    "resnet56": partial(resnet, 9),
}
GIVEN = ("shape", "classes")
Shape = tuple[int, int, int]
Options = Mapping[str, Any]


def _no_weights(name: str, options: Options) -> Pretrained:
    raise ConfigError('weights = "DEFAULT" is for a library\'s own models; name a file of weights')


def _as_they_are(name: str, options: Options) -> dict[str, Any]:
    return dict(options)


@dataclass(frozen=True)
class Library:
    """Where some models come from.

    Attributes:
        problems: of a place in the recipe, a name and options: what is wrong, one sentence each.
        build: of a name, options, image shape and K: a network with fresh weights.
        weights: of a name and options: those that the library has for it.
        described: of a name and options: the options that a checkpoint keeps, so that the network
            can be built where nothing but the checkpoint is.
    """

    problems: Callable[[str, str, Options], list[str]]
    build: Callable[[str, Options, Shape, int], nn.Module]
    weights: Callable[[str, Options], Pretrained] = _no_weights
    described: Callable[[str, Options], dict[str, Any]] = _as_they_are


def _own_problems(where: str, name: str, options: Options) -> list[str]:
    try:
        function = imported(name)
        if not callable(function):
            kind = type(function).__name__
            return [f"{where}.name: {name} must be a function or a class, but is a {kind}"]
        return call_problems(where, function, options, given=GIVEN)
    except ConfigError as error:
        return [f"{where}.name: {error}"]


def _own_model(name: str, options: Options, shape: Shape, classes: int) -> nn.Module:
    function = imported(name)
    wanted = inspect.signature(function).parameters
    given = {"shape": shape, "classes": classes}
    with explained(name):
        made = function(**{k: v for k, v in given.items() if k in wanted}, **options)
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"it must return a torch.nn.Module, but returned {shown(made)}; return the network"
        )
    return made


BUILT_IN = Library(
    problems=lambda where, name, options: call_problems(where, MODELS[name], options, given=GIVEN),
    build=lambda name, options, shape, classes: MODELS[name](
        shape=shape, classes=classes, **options
    ),
)
OWN = Library(_own_problems, _own_model)
TORCHVISION = Library(zoo_problems, zoo_model, zoo_weights)
LIBRARIES: Mapping[str, Library] = {
    TIMM: Library(timm_problems, timm_model, timm_weights),
    HF: Library(hf_problems, hf_model, hf_weights, hf_described),
}
"""Prefix of a name -> where its models come from."""


def library_of(name: str) -> Library:
    """Where the model of this name comes from.

    Raises:
        UnknownNameError: from nowhere; the message offers the nearest name.
    """
    if name in MODELS:
        return BUILT_IN
    if is_dotted(name):
        return OWN
    prefix, slash, _ = name.partition("/")
    if slash and prefix + slash in LIBRARIES:
        return LIBRARIES[prefix + slash]
    if name in (known := zoo_names()):
        return TORCHVISION
    raise UnknownNameError(f"unknown model {shown(name)}; {suggestion(name, [*MODELS, *known])}")
