"""This process among the workers that train one model: its rank, sums over all, errors shared.

Uses torch.distributed only where a higher floor has initialized it; alone, every function is the
identity. It knows nothing of Ray.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd_ray.errors import KdRayError


@dataclass(frozen=True)
class Worker:
    """Where this process computes.

    Attributes:
        rank: this worker's number, 0 to world - 1; rank 0 writes the artefacts.
        world: how many workers train together.
        device: where tensors live.
        threads: CPU threads for tensor arithmetic. Set on purpose, because the order of float sums
            depends on it.
        noticed: asks whether the machine of one of the workers will be taken away soon, true once
            for each such notice; all workers ask together and get one answer. None where there are
            no notices.
    """

    rank: int
    world: int
    device: torch.device
    threads: int
    noticed: Callable[[], bool] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what only one may write."""
        return self.rank == 0

    def part_of(self, rows: int) -> slice:
        """This worker's share of a batch of `rows` rows; the shares differ by one row at most.

        >>> [Worker(r, 3, torch.device("cpu"), 1).part_of(10) for r in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
        """
        return slice(rows * self.rank // self.world, rows * (self.rank + 1) // self.world)


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(values: Tensor) -> Tensor:
    """`values` added up over all workers, in place; float64 on the CPU or the worker's GPU."""
    if _grouped():
        dist.all_reduce(values)
    return values


def summed_with_gradient(values: Tensor) -> Tensor:
    """`values` added up over all workers; each worker's gradient is that of all of them."""
    if not _grouped():
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)  # type: ignore[no-any-return, no-untyped-call]


def average_buffers(model: nn.Module) -> None:
    """Makes the float buffers (running means of batch norm) the mean over all workers.

    Each worker sees its own part of a batch; without this, the model that is evaluated and saved
    would depend on which worker does it.
    """
    if not _grouped():
        return
    stored = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        # Others are constants, which a sum of three that is divided by three need not give back.
        if name in stored and buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def buffers_unsent(network: Callable[..., object]) -> dict[str, Any]:
    """What keeps DistributedDataParallel from sending buffers; it is called otherwise since 2.15.

    >>> buffers_unsent(lambda module, broadcast_buffers: None)
    {'broadcast_buffers': False}
    """
    known = inspect.signature(network).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {name: False}


def distributed(network: nn.Module, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network whose gradients are averaged over the workers; `model` is it before compiling."""
    made: list[DistributedDataParallel] = []

    def forward(images: Tensor) -> Tensor:
        if not made:
            # Buffers are averaged once an epoch (`average_buffers`), so no step has to send them.
            options = {"gradient_as_bucket_view": True, **buffers_unsent(DistributedDataParallel)}
            unused = _has_unused(model, images[:1])
            made.append(DistributedDataParallel(network, find_unused_parameters=unused, **options))
        logits: Tensor = made[0](images)
        return logits

    return forward


def _has_unused(model: nn.Module, images: Tensor) -> bool:
    """Whether logits do not depend on some weights, for whose gradients workers would wait."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was = model.training
    logits = model.eval()(images)
    model.train(was)
    gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    return any(gradient is None for gradient in gradients)


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """All workers leave the block, and all leave with an error if one of them has one.

    Without it the others would wait for ever in the next collective call.
    """
    error: KdRayError | None = None
    try:
        yield
    except KdRayError as caught:
        error = caught
    if _grouped():
        failed = torch.tensor([0 if error is None else 1], device=device)
        dist.all_reduce(failed)
        if failed.item():
            found: list[KdRayError | None] = [None] * dist.get_world_size()
            dist.all_gather_object(found, error)
            error = error or next(e for e in found if e is not None)
    if error is not None:
        raise error


def from_first(value: int, device: torch.device) -> int:
    """Worker 0's `value` on every worker, so that all go the same way."""
    if not _grouped():
        return value
    shared = torch.tensor([value], device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())
