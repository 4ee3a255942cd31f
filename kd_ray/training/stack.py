"""Models of one architecture as one: their tensors are parts of stacks, which a pass runs through.

It knows nothing of losses, optimizers or batches.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kd_ray.models import BoundedLinear

LINEAR = (nn.Linear, BoundedLinear)


class Stack:
    """S models that run as one."""

    def __init__(self, kinds: Sequence[Sequence[int]], parts: Sequence["_Part"]) -> None:
        self._kinds, self._parts = kinds, parts
        self._order = torch.tensor([place for places in kinds for place in places]).argsort()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(S, N, K)` of images `(N, C, H, W)` of all, or `(S, N, C, H, W)`."""
        if len(self._parts) == 1:
            return self._parts[0].logits(images)
        own = images.dim() == 5
        found = [
            part.logits(images[places] if own else images)
            for part, places in zip(self._parts, self._kinds, strict=True)
        ]
        return torch.cat(found)[self._order.to(images.device)]

    @contextmanager
    def gradients_of_each(self) -> Iterator[None]:
        """Lends each model its part of the gradients; behind the block nobody has any."""
        for part in self._parts:
            part.hand_out_gradients()
        yield
        for part in self._parts:
            part.drop_gradients()


class Single:
    """A model as it is, where a stack of one is expected; it is what that is compared with."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model.train()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(1, N, K)` of images `(N, C, H, W)`."""
        logits: Tensor = self._model(images)
        return logits[None]

    @contextmanager
    def gradients_of_each(self) -> Iterator[None]:
        """The model has its gradients; behind the block it has none."""
        yield
        for weight in self._model.parameters():
            weight.grad = None


@contextmanager
def stacked(models: Sequence[nn.Module]) -> Iterator[Stack]:
    """Lends the tensors of S models to one that runs as all of them, or to one for each of few.

    Models of other bits round differently, so those of the same are stacked. In the block each
    model's parameters and buffers are parts of a stack, so that its own optimizer turns them;
    behind it they are its own again.
    """
    kinds = alike(models)
    parts = [_Part([models[place] for place in places]) for places in kinds]
    try:
        yield Stack(kinds, parts)
    finally:
        for part in parts:
            part.give_back()


def alike(models: Sequence[nn.Module]) -> list[list[int]]:
    """Places of models that are the same but for their tensors."""
    found: dict[object, list[int]] = {}
    for place, model in enumerate(models):
        found.setdefault(_kind(model), []).append(place)
    return list(found.values())


def _kind(model: nn.Module) -> object:
    """What its modules are and the plain values they hold, such as bits."""
    plain = (bool, int, float, str, tuple, type(None))
    return tuple(
        (name, type(module), *sorted((k, v) for k, v in vars(module).items() if type(v) in plain))
        for name, module in model.named_modules()
    )


class _Part:
    """Models that are the same but for their tensors."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._lead = models[0]
        self._states = [dict(model.named_parameters()) for model in models]
        self._buffers = [dict(model.named_buffers()) for model in models]
        self._weights = _stacks(self._states)
        self._others = _stacks(self._buffers)
        for name, stack in self._weights.items():
            stack.requires_grad_(self._states[0][name].requires_grad)
        for model in models:
            model.train()
        self._linear = [layer for layer in self._lead.modules() if type(layer) in LINEAR]
        for layer in self._linear:
            layer.forward = partial(_transposed, layer)

    def logits(self, images: Tensor) -> Tensor:
        of_images = 0 if images.dim() == 5 else None
        call = vmap(self._run, in_dims=(0, 0, of_images), randomness="error")
        with warnings.catch_warnings():
            # Some operations are run model by model; `is_faster` knows what that costs.
            warnings.filterwarnings("ignore", "There is a performance drop")
            logits: Tensor = call(self._weights, self._others, images)
        return logits

    def _run(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Any:
        return functional_call(self._lead, (weights, buffers), (images,))

    def hand_out_gradients(self) -> None:
        for name, stack in self._weights.items():
            if stack.grad is not None:
                for state, gradient in zip(self._states, stack.grad.unbind(), strict=True):
                    state[name].grad = gradient

    def drop_gradients(self) -> None:
        # Backward then hands over what it has computed, with nothing to add it to.
        for stack in self._weights.values():
            stack.grad = None
        for state in self._states:
            for weight in state.values():
                weight.grad = None

    def give_back(self) -> None:
        for layer in self._linear:
            del layer.forward
        for state, own in zip(self._states, self._buffers, strict=True):
            for tensor in (*state.values(), *own.values()):
                tensor.data = tensor.data.clone(memory_format=torch.preserve_format)
                tensor.grad = None


def _transposed(layer: Any, inputs: Tensor) -> Tensor:
    """What the layer does, with units before rows in memory.

    The gradient of the weights then comes about in their own order; else each would be copied.
    """
    # `bmm` has a product for each, whose bits are the same however many there are.
    outputs: Tensor = torch.bmm(layer.weight[None], inputs.mT[None])[0].mT
    return outputs if layer.bias is None else outputs + layer.bias


def _stacks(of_each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _stack([some[name] for some in of_each]) for name in of_each[0]}


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """`(S, ...)` in the memory order of the tensors, of which each becomes a part."""
    first = tensors[0]
    size, stride = (len(tensors), *first.shape), (first.numel(), *first.stride())
    stack = torch.empty_strided(size, stride, dtype=first.dtype, device=first.device)
    for place, tensor in enumerate(tensors):
        stack[place].copy_(tensor.detach())
        tensor.data = stack[place]
    return stack
