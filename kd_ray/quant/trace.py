"""What passes through a model's layers: multiplications, the sign of inputs, the order of calls."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kd_ray.errors import ConfigError


@dataclass
class LayerCalls:
    """The calls of one layer for one image.

    Attributes:
        name: dotted, in the model.
        multiplications: multiply-accumulates for one image, over all calls.
        calls: how often it was called for one batch.
        negative: whether an input was below 0.
        distinct: how many different inputs there were.
    """

    name: str
    multiplications: int = 0
    calls: int = 0
    negative: bool = False
    distinct: int = 0


@torch.no_grad()
def trace_layers(
    model: nn.Module, shape: tuple[int, int, int], kinds: tuple[type[nn.Module], ...]
) -> list[LayerCalls]:
    """Runs two random images of `shape` (C, H, W) through a model, which stays as it is.

    Returns:
        An entry for each layer of these kinds that was called, in the order of the first calls.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, kinds)}
    found: dict[str, LayerCalls] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer = found.setdefault(names[module], LayerCalls(names[module]))
        layer.multiplications += _multiplications(module, output)
        layer.calls += 1
        layer.negative |= bool((inputs[0] < 0).any())
        layer.distinct = max(layer.distinct, torch.unique(inputs[0]).numel())

    like = next(model.parameters())
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(like.device)
    with evaluated(model, [module.register_forward_hook(watch) for module in names]):
        try:
            model(images)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"images of {shape[1]} x {shape[2]} pixels do not go through the model ({reason}); "
                "choose another model, or images of another size"
            ) from error
    return list(found.values())


@contextmanager
def evaluated(model: nn.Module, hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """The model in evaluation mode for the block; then hooks are removed, and modes restored."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training:
            module.training = was


def _multiplications(module: nn.Module, output: Tensor) -> int:
    """Multiply-accumulates of one image in one call."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return 0
    # Every weight is used once for each place of the output: a pixel, a token.
    places = output[0].numel() // weight.shape[0]
    return weight.numel() * places
