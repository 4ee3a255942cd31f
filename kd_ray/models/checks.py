"""What a network is shown before it is trusted: memory, images, seeds, the order of its tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from kd_ray.errors import ConfigError, KdRayError, shown
from kd_ray.machine import memory_bytes

Shape = tuple[int, int, int]
TRIED_IMAGES = 2
DRAWS = (Tensor.normal_, Tensor.uniform_)


def check_memory(weights: int) -> None:
    """Refuses weights that, with their gradients, no memory of this machine could hold."""
    has = memory_bytes()
    if 8 * weights > has:
        raise ConfigError(
            f"its {weights:,} weights need {4 * weights / 1e9:,.0f} GB, and their gradients as "
            f"much again, but this machine has {has / 1e9:.0f} GB; choose smaller layers"
        )


def check_outputs(network: nn.Module, shape: Shape, classes: int, *, on_meta: bool = False) -> None:
    """Shows a network some images, and refuses it where it does not answer with their logits.

    In evaluation and in training, where some answer otherwise; it is left as it was.

    Args:
        network: from `(N, C, H, W)` to `(N, K)`.
        shape: `(C, H, W)`.
        classes: K.
        on_meta: compute shapes only, whatever the size; not every network can be asked so.
    """
    images = torch.zeros(TRIED_IMAGES, *shape, device="meta" if on_meta else "cpu")
    answers = [] if on_meta else [evaluated(network, images)]
    if odd := [key for key, value in network.state_dict().items() if not _is_tensor(value)]:
        raise ConfigError(
            f"its state must be tensors alone, but {shown(odd[0])} is none; leave it out"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("it must have weights, but has none to train; give it a layer")
    tensors = chain(network.named_parameters(), network.named_buffers())
    weights = {name: tensor.detach().to(images.device, copy=True) for name, tensor in tensors}
    with torch.no_grad():
        answers.append(functional_call(network, weights, images))
    for logits in answers:
        if not _is_tensor(logits) or logits.shape != (TRIED_IMAGES, classes):
            got = list(logits.shape) if _is_tensor(logits) else type(logits).__name__
            raise ConfigError(
                f"it must answer {TRIED_IMAGES} images with logits of shape "
                f"{[TRIED_IMAGES, classes]}, one for each class, but answered with {got}; return "
                "these"
            )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


@contextmanager
def going_through(shape: Shape) -> Iterator[None]:
    """Says that a library's network does not take images of a `shape`, whatever it says itself."""
    try:
        yield
    except KdRayError:
        raise
    except Exception as error:
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[:1])
        raise ConfigError(
            f"images of {shape[1]} x {shape[2]} pixels do not go through it "
            f"({reason.rstrip('.!')[:200]}); choose another model, or images of another size, such "
            "as by model.input = { size = 224 }"
        ) from error


def evaluated(network: nn.Module, images: Tensor) -> Any:
    """What a network answers in evaluation mode; it is left as it was."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(images)
    finally:
        network.train(was)


def check_repeatable(build: Callable[[int], nn.Module], seed: int, shape: Shape) -> None:
    """Refuses a network that is not a function of images, seed and what a checkpoint stores of it.

    Args:
        build: of a seed: the network.
        seed: of the weights.
        shape: `(C, H, W)` of images that it takes.
    """
    one, same, other = build(seed), build(seed), build(seed + 1)
    mine, its = one.state_dict(), same.state_dict()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(TRIED_IMAGES, *shape, generator=draw)
    equal = mine.keys() == its.keys() and all(_equal(mine[key], its[key]) for key in mine)
    answer = evaluated(one, images)
    if not equal or not all(_equal(answer, evaluated(each, images)) for each in (one, same)):
        raise ConfigError(
            "must be a function of torch's seed alone, but two of one seed differ; draw with "
            "torch's own random numbers, and none in evaluation mode"
        )
    other.load_state_dict(mine)
    if not _equal(answer, evaluated(other, images)):
        raise ConfigError(
            "must be a function of its state_dict, but another one with the same answers "
            "otherwise; keep all that is drawn in parameters, or by register_buffer"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 0, 0, equal_nan=True)


IN_ORDER = "kd_ray_in_order"
"""Attribute of a network whose tensors are to stay in the order of their dimensions."""


def keep_order_(network: nn.Module, shape: Shape) -> None:
    """Marks, in place, a network that does not go through with channels last.

    Such as one that has `x.view(len(x), -1)` behind a convolution.
    """
    was = network.training
    try:
        with torch.no_grad(), ChannelsLast():
            network.eval()(torch.zeros(TRIED_IMAGES, *shape))
        fits = all(tensor.ndim != 5 for tensor in network.state_dict().values())
    except RuntimeError:
        fits = False
    network.train(was)
    if not fits:
        setattr(network, IN_ORDER, True)
        # Of one channel, `contiguous` would take either order for its own.
        order = torch.contiguous_format
        network.register_forward_pre_hook(lambda _, given: (given[0].clone(memory_format=order),))


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, its weights in the order in which it is fast."""
    if any(hasattr(module, IN_ORDER) for module in model.modules()):
        return model.to(device)
    # Convolutions are half as fast again with channels last, on CPUs and GPUs alike.
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of weights, which on the meta device imports a compiler first."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


class ChannelsLast(TorchFunctionMode):
    """Puts channels last in everything, as convolutions do on some machines but not on all."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if _is_tensor(made) and made.ndim == 4:
            return made.contiguous(memory_format=torch.channels_last)
        return made
