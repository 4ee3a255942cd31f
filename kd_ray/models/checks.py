"""What a network is shown before it is trusted: memory, the shape of its answers, its seed."""

from itertools import chain
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd_ray.errors import ConfigError

TRIED_IMAGES = 2
DRAWS = (Tensor.normal_, Tensor.uniform_)


def check_memory(weights: int) -> None:
    """Refuses weights that, with their gradients, no memory of this machine could hold."""
    has = psutil.virtual_memory().total
    if 8 * weights > has:
        raise ConfigError(
            f"its {weights:,} weights need {4 * weights / 1e9:,.0f} GB, and their gradients as "
            f"much again, but this machine has {has / 1e9:.0f} GB; choose smaller layers"
        )


def check_outputs(
    network: nn.Module, shape: tuple[int, int, int], classes: int, on_meta: bool
) -> None:
    """Shows a network some images and refuses it where it does not answer with their logits."""
    images = torch.zeros(TRIED_IMAGES, *shape, device="meta" if on_meta else "cpu")
    try:
        if on_meta:  # only shapes are computed, whatever the size
            tensors = chain(network.named_parameters(), network.named_buffers())
            weights = {name: tensor.detach().to("meta") for name, tensor in tensors}
            with torch.no_grad():
                logits = torch.func.functional_call(network, weights, images)
        else:
            logits = evaluated(network, images)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[:1])
        raise ConfigError(
            f"images of {shape[1]} x {shape[2]} pixels do not go through it "
            f"({reason.rstrip('.!')[:200]}); choose another model, or images of another size, such "
            "as by model.input = { size = 224 }"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (TRIED_IMAGES, classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"it must answer {TRIED_IMAGES} images with logits of shape "
            f"{[TRIED_IMAGES, classes]}, one for each class, but answered with {got}; return these"
        )


def evaluated(network: nn.Module, images: Tensor) -> Any:
    """What a network answers in evaluation mode; it is left as it was."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(images)
    finally:
        network.train(was)


def check_repeatable(
    one: nn.Module, other: nn.Module, where: str, shape: tuple[int, int, int]
) -> None:
    """Refuses a network that is not a function of its seed, or answers differently each time."""
    mine, its = one.state_dict(), other.state_dict()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(TRIED_IMAGES, *shape, generator=draw)
    same = mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
    if not same or not torch.equal(evaluated(one, images), evaluated(one, images)):
        raise ConfigError(
            f"{where}: must be a function of torch's seed alone, but two of one seed differ; "
            "draw with torch's own random numbers, and none in evaluation mode"
        )


class NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of weights, which on the meta device imports a compiler first."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))
