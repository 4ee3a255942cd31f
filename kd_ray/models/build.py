"""Models by name: networks with fresh, seeded weights, or with those that a recipe names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from kd_ray.config import InputOptions, ModelOptions
from kd_ray.errors import ConfigError, KdRayError, UnknownNameError
from kd_ray.models.checks import (
    NothingDrawn,
    check_memory,
    check_outputs,
    check_repeatable,
    going_through,
    keep_order_,
)
from kd_ray.models.columns import OutputColumns
from kd_ray.models.library import BUILT_IN, OWN, TORCHVISION, Library, Options, Shape, library_of
from kd_ray.models.prepared import Prepared, network_in
from kd_ray.models.weights import (
    Pretrained,
    head_of,
    lay_on,
    outputs_of,
    read_weights,
    without_prefix,
)
from kd_ray.own_code import explained

# Large enough for every option that suits any image: only options are checked on it.
_ANY_SHAPE = (3, 2**12, 2**12)
AROUND = ("input", "columns", "outputs", "weights", "head")
"""What a checkpoint says of a model beside the options of the function that makes it."""


@dataclass(frozen=True)
class NewModel:
    """A model before training.

    Attributes:
        network: on the CPU, from `(N, C, H, W)` to logits `(N, K)`.
        table: what a checkpoint says of it, from which `build_model` makes it again.
        parents: "weights" -> sha256, of a model that has some.
    """

    network: nn.Module
    table: dict[str, Any]
    parents: dict[str, str]


def new_model(
    model: ModelOptions,
    *,
    shape: Shape,
    classes: int,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    columns: OutputColumns | None = None,
) -> NewModel:
    """The model that a recipe describes, with new weights or with those that it names.

    Args:
        model: name, options, weights, input.
        shape: `(C, H, W)` of an image.
        classes: K.
        seed: seed of the weights that are new.
        mean: of each channel of the pixels, by which images are normalized before they come.
        std: as `mean`.
        columns: which of the network's outputs are the K classes; None where it has K.

    Raises:
        ConfigError: there is no such model, it does not take such images, or weights do not fit.
    """
    library, where = library_of(model.name), f"model '{model.name}'"
    with _named(where):
        options = library.described(model.name, model.options)
        found = _pretrained(model)
    wanted = _merged(found.input if found else InputOptions(), model.input)
    given = {"input": wanted.model_dump(mode="json", exclude_none=True)}
    around: dict[str, Any] = given if wanted != InputOptions() else {}

    def build(classes: int, seed: int, around: Mapping[str, Any] = around) -> nn.Module:
        described = {**options, **around}
        return build_model(
            model.name, described, shape=shape, classes=classes, seed=seed, mean=mean, std=std
        )

    @cache
    def head() -> dict[str, int]:  # it takes two more networks, which most models can do without
        return head_of(lambda number: network_in(build(number, seed)), classes)

    outputs = classes
    if columns is not None:
        outputs = _outputs(found, head, columns)
        around = {**around, "columns": list(columns.numbers), "outputs": outputs}
    network = build(classes, seed, around)
    if library is OWN:
        with _named(where), explained(model.name):
            check_repeatable(
                lambda seed: network_in(build(outputs, seed)), seed, _inner(shape, wanted)
            )
    if found is not None:
        lay_on(network_in(network), found.state, where, head, model.head is not None)
        around = {**around, "weights": "file" if model.weights_file else model.weights}
    parents = {"weights": found.sha256} if found else {}
    return NewModel(network, {"name": model.shown_name, **options, **around}, parents)


def _pretrained(model: ModelOptions) -> Pretrained | None:
    if model.weights is None:
        return None
    if model.weights_file is not None:
        return read_weights(model.weights_file)
    return library_of(model.name).weights(model.name, model.options)


def _merged(known: InputOptions, given: InputOptions | None) -> InputOptions:
    """What weights say of their input, and what the recipe says instead."""
    return known.model_copy(update=given.model_dump(exclude_unset=True) if given else {})


def _inner(shape: Shape, wanted: InputOptions) -> Shape:
    """`(C, H, W)` of what the network itself is fed."""
    channels, height, width = shape
    own = len(wanted.mean) if wanted.mean else channels
    return own, wanted.size or height, wanted.size or width


def _outputs(
    found: Pretrained | None, head: Callable[[], Mapping[str, int]], columns: OutputColumns
) -> int:
    """The number of outputs of a network of which some columns are the classes."""
    if found is None:
        raise ConfigError(
            "teacher.columns: picks outputs of trained weights, but a model has none; name these"
        )
    outputs = found.outputs or outputs_of(without_prefix(found.state, head()), head()) or 0
    if max(columns.numbers) >= outputs or columns.outputs not in (None, outputs):
        got = columns.outputs and f"the file has {columns.outputs} names"
        raise ConfigError(
            f"teacher.columns: must be of the {outputs} outputs of the teacher, counted from 0, "
            f"but {got or f'got {max(columns.numbers)}'}; correct it"
        )
    return outputs


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    shape: Shape,
    classes: int,
    seed: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """A model on the CPU whose weights are a function of the arguments alone.

    Args:
        name: as in `ModelOptions`.
        options: keyword arguments of the function that makes it, and what `NewModel.table` says.
        shape: `(C, H, W)` of an image.
        classes: K.
        seed: seed of the weights; the process's own random state is left as it was.
        mean: as in `new_model`; pixels as they are where left out.
        std: as `mean`.

    Raises:
        UnknownNameError: no such model.
        ConfigError: an option breaks a rule, or the model does not take such images.
    """
    own = {key: value for key, value in options.items() if key not in AROUND}
    library, where = library_of(name), f"model '{name}'"
    if problems := library.problems(where, name, own):
        raise ConfigError("; ".join(problems))
    wanted, columns = InputOptions.model_validate(options.get("input", {})), options.get("columns")
    inner, outputs = _inner(shape, wanted), classes if columns is None else options["outputs"]
    # Attention's own way through evaluation would pass by the quantizers of its layers.
    torch.backends.mha.set_fastpath_enabled(False)
    # Only the CPU's generator: torch.manual_seed would reseed the accelerators as well.
    with torch.random.fork_rng(devices=[]), _named(where):
        torch.default_generator.manual_seed(seed)
        if library is BUILT_IN:
            check_memory(parameter_count(_weightless(name, inner, outputs, own)))
        network = _made(library, name, own, inner, outputs)
        if library is not BUILT_IN:
            with explained(name) if library is OWN else going_through(inner):
                check_outputs(network, inner, outputs, on_meta=library is TORCHVISION)
                if library is OWN:
                    keep_order_(network, inner)
        if wanted == InputOptions() and columns is None:
            return network
        plain = [0.0] * shape[0], [1.0] * shape[0]
        return Prepared(
            network, wanted, mean=mean or plain[0], std=std or plain[1], columns=columns
        )


def _made(library: Library, name: str, options: Options, shape: Shape, classes: int) -> nn.Module:
    try:
        return library.build(name, options, shape, classes)
    except KdRayError:
        raise
    except Exception as error:  # libraries have their own ways to refuse options
        if library is BUILT_IN:
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"it cannot be made ({reason}); correct its options") from error


def model_problems(where: str, model: ModelOptions) -> list[str]:
    """What is wrong with the model at a dotted place of a recipe, one sentence each.

    Whether it takes the images is left to `build_model`, which knows their shape.
    """
    name, options = model.name, model.options
    try:
        library = library_of(name)
    except UnknownNameError as error:
        return [f"{where}.name: {error}"]
    problems = library.problems(where, name, options)
    if problems or library is not BUILT_IN:
        return problems
    try:
        _, *others = _weightless(name, _ANY_SHAPE, 2, options).parameters()
        check_memory(sum(weights.numel() for weights in others))  # whatever the images' size
    except ConfigError as error:
        return [f"{where}: {error}"]
    return []


def _weightless(name: str, shape: Shape, classes: int, options: Options) -> nn.Module:
    """The model on the meta device, where one of any size costs no memory."""
    with torch.device("meta"), NothingDrawn():
        return library_of(name).build(name, options, shape, classes)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Puts the model's name before what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from error


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
