"""Students of one architecture, trained as one: weights are stacked, a step is one for all.

A student alone is often too small to fill a core, and what a step costs besides arithmetic it costs
for each. Here a forward and a backward pass, the batch and the loss are computed for S students at
once. Each keeps its model, optimizer, schedule, T, c and order of batches: it learns what it would
learn alone, but for the order of float sums. Between two epochs nothing is stacked, so a student
may leave, join or be checkpointed there.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kd_ray.batch import Batch
from kd_ray.models import project_
from kd_ray.quant.trace import evaluated
from kd_ray.training.batch_loss import losses_of_all
from kd_ray.training.epoch import TICK_S, Turn, autocast, step_sums
from kd_ray.training.losses import exact
from kd_ray.training.optimizer import take_step
from kd_ray.training.progress import Step
from kd_ray.training.workers import Worker

TRIED = 8
"""Students that are tried: what more of them gain is seen by so many, and each costs steps."""
TRIED_STEPS = 4
"""Steps that are timed, each way, to see which is faster; the first of them is not counted."""


def train_together(turns: Sequence[Turn], worker: Worker) -> Iterator[Step]:
    """Trains the next epoch of several trainings as one.

    Args:
        turns: of one architecture, of the same rows and batch size, at the same epoch, that
            `obstacle` finds nothing against; each is filled in.
        worker: this process, which trains alone.
    """
    lead = turns[0]
    number, bounds = lead.number, lead.bounds
    sums = torch.zeros(5, len(turns), dtype=torch.float64, device=worker.device)
    norms: list[list[Tensor]] = [[] for _ in turns]
    started = ticked = time.perf_counter()
    with stacked([turn.training.model for turn in turns]) as network:
        for step, batches in enumerate(_batches(turns, worker)):
            sums += _step(turns, network, batches, step, worker, norms)
            now = time.perf_counter()
            if now - ticked > TICK_S:
                ticked = now
                rate = bounds[step][1] * len(turns) / (now - started)
                yield Step(number, step + 1, len(bounds), rate)
    of_each = sums.T.tolist()
    seconds = (time.perf_counter() - started) / len(turns)
    for turn, own, mine in zip(turns, of_each, norms, strict=True):
        turn.finish(own, mine, turn.feed.rows, seconds)


def obstacle(turns: Sequence[Turn], worker: Worker) -> str | None:
    """Why trainings cannot be trained as one, in a clause; None if they can.

    What differs in more than numbers is not asked for here. They are tried on a batch, as a model
    may draw random numbers, or have an operation that knows of no stack.
    """
    if worker.world > 1:
        return "several workers train each of them"
    if turns[0].options.compile:
        return "they are compiled (train.compile)"
    if any(turn.training.part is not None for turn in turns):
        return "one of them is in the middle of an epoch"
    kinds = _alike([turn.training.model for turn in turns])
    copies = [_copy(turns[place]) for places in kinds for place in places[:2]]
    try:
        with stacked([turn.training.model for turn in copies]) as network:
            _step(copies, network, next(_batches(copies, worker)), 0, worker, [[] for _ in copies])
    except RuntimeError as error:
        if "random" in str(error):
            return "their model draws random numbers in training, such as those of dropout"
        return f"torch cannot stack their model ({str(error).splitlines()[0].split('. ')[0]})"
    return None


def is_faster(turns: Sequence[Turn], worker: Worker) -> bool:
    """Whether some steps take less time as one than one after the other; on copies of a few."""
    copies = [_copy(turn) for turn in turns[:TRIED]]
    seconds = {"alone": 0.0, "together": 0.0}
    models = [turn.training.model for turn in copies]

    def timed(name: str, step: int, run: Callable[[], object]) -> None:
        started = time.perf_counter()
        run()
        if worker.device.type == "cuda":
            torch.cuda.synchronize(worker.device)
        seconds[name] += (time.perf_counter() - started) * (step > 0)

    tried = list(islice(_batches(copies, worker), TRIED_STEPS))
    # One after the other as an epoch is: all steps of one, whose weights then stay in the caches.
    for place, (turn, model) in enumerate(zip(copies, models, strict=True)):

        def network(images: Tensor, model: nn.Module = model) -> Tensor:
            logits: Tensor = model(images)
            return logits[None]

        for step, batches in enumerate(tried):
            batch = batches[place if len(batches) > 1 else 0]
            timed("alone", step, partial(_step, [turn], network, [batch], step, worker, [[]]))
    norms: list[list[Tensor]] = [[] for _ in copies]
    with stacked(models) as joined:
        for step, batches in enumerate(tried):
            timed("together", step, partial(_step, copies, joined, batches, step, worker, norms))
    return seconds["together"] < seconds["alone"]


def _copy(turn: Turn) -> Turn:
    """A turn of the same rows whose training is of its own."""
    training = deepcopy(turn.training)
    return Turn(training, turn.feed, turn.objective, turn.options, turn.schedule, turn.seed)


def _batches(turns: Sequence[Turn], worker: Worker) -> Iterator[Sequence[Batch]]:
    """Of each step a batch that all see, or, where their orders differ, one for each."""
    lead, seeds = turns[0], list(dict.fromkeys(turn.seed for turn in turns))
    size, part = lead.options.batch_size, worker.part_of
    streams = [lead.feed.batches(seed, lead.number, size, 0, part) for seed in seeds]
    for batches in zip(*streams, strict=True):
        if len(seeds) == 1:
            yield batches
        else:
            of_seed = dict(zip(seeds, batches, strict=True))
            yield [of_seed[turn.seed] for turn in turns]


def _step(
    turns: Sequence[Turn],
    network: Callable[[Tensor], Tensor],
    batches: Sequence[Batch],
    step: int,
    worker: Worker,
    norms: Sequence[list[Tensor]],
) -> Tensor:
    """One step of all; returns its `step_sums`, `(5, S)`."""
    steps = len(turns[0].bounds)
    done = [turn.set_knobs(step, steps) for turn in turns]
    shared = len(batches) == 1
    images = batches[0].images if shared else torch.stack([batch.images for batch in batches])
    with autocast(turns[0].options.precision, worker.device):
        logits = network(images)
    loss = losses_of_all([turn.objective for turn in turns], exact(logits), batches, done)
    loss.total.sum().backward()  # type: ignore[no-untyped-call]
    for turn, mine in zip(turns, norms, strict=True):
        mine += turn.clip(step)
        take_step(turn.training.optimizer)
        project_(turn.training.model)
    # In place, as they are parts of the stacks', and at once: each call costs a device a kernel.
    models = [turn.training.model for turn in turns]
    gradients = [weight.grad for model in models for weight in model.parameters()]
    torch._foreach_zero_([gradient for gradient in gradients if gradient is not None])
    labels = batches[0].labels if shared else torch.stack([batch.labels for batch in batches])
    return step_sums(loss, logits, labels)


@contextmanager
def stacked(models: Sequence[nn.Module]) -> Iterator[Callable[[Tensor], Tensor]]:
    """Lends the tensors of S models to one that runs as all of them, or to one for each of few.

    Models of other bits round differently, so those of the same are stacked. In the block each
    model's parameters, gradients and buffers are parts of a stack, so that its own optimizer turns
    them; behind it they are its own again.

    Yields:
        From images `(N, C, H, W)` of all, or `(S, N, C, H, W)`, to logits `(S, N, K)`.
    """
    kinds = _alike(models)
    order = torch.tensor([place for places in kinds for place in places]).argsort()
    with ExitStack() as stack:
        parts = [stack.enter_context(_stacked([models[n] for n in places])) for places in kinds]

        def network(images: Tensor) -> Tensor:
            if len(parts) == 1:
                return parts[0](images)
            own = images.dim() == 5
            found = [
                part(images[places] if own else images)
                for part, places in zip(parts, kinds, strict=True)
            ]
            return torch.cat(found)[order.to(images.device)]

        yield network


def _alike(models: Sequence[nn.Module]) -> list[list[int]]:
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


@contextmanager
def _stacked(models: Sequence[nn.Module]) -> Iterator[Callable[[Tensor], Tensor]]:
    """As `stacked`, for models that are the same but for their tensors."""
    lead = models[0]
    states = [dict(model.named_parameters()) for model in models]
    buffers = [dict(model.named_buffers()) for model in models]
    weights = {name: _stack([state[name] for state in states]) for name in states[0]}
    others = {name: _stack([some[name] for some in buffers]) for name in buffers[0]}
    for name, stack in weights.items():
        if states[0][name].requires_grad:
            stack.requires_grad_()
            stack.grad = torch.zeros_like(stack)  # in the same order of memory
            for place, state in enumerate(states):
                state[name].grad = stack.grad[place]
    for model in models:
        model.train()

    def run(weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Any:
        return functional_call(lead, (weights, buffers), (images,))

    def network(images: Tensor) -> Tensor:
        of_images = 0 if images.dim() == 5 else None
        call = vmap(run, in_dims=(0, 0, of_images), randomness="error")
        with warnings.catch_warnings():
            # Some operations are run model by model; `is_faster` knows what that costs.
            warnings.filterwarnings("ignore", "There is a performance drop")
            logits: Tensor = call(weights, others, images)
        return logits

    try:
        yield network
    finally:
        for state, own in zip(states, buffers, strict=True):
            for tensor in (*state.values(), *own.values()):
                tensor.data = tensor.data.clone(memory_format=torch.preserve_format)
                tensor.grad = None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """`(S, ...)` in the memory order of the tensors, of which each becomes a part."""
    first = tensors[0]
    size, stride = (len(tensors), *first.shape), (first.numel(), *first.stride())
    stack = torch.empty_strided(size, stride, dtype=first.dtype, device=first.device)
    for place, tensor in enumerate(tensors):
        stack[place].copy_(tensor.detach())
        tensor.data = stack[place]
    return stack


def most_in_memory(turns: Sequence[Turn]) -> int:
    """How many of some trainings fit into half of the memory that is free, as one; at least 1.

    Weights are there twice, with as large gradients; what layers hand on is kept for the backward
    pass, and its gradient is as large.
    """
    turn = turns[0]
    model, rows = turn.training.model, min(turn.options.batch_size, turn.feed.rows)
    only = turn.feed.batches(turn.seed, turn.number, rows, 0, lambda rows: slice(0, 1))
    image, handed_on = next(only).images, 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal handed_on
        if isinstance(output, Tensor):
            handed_on += output.numel() * output.element_size()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    device = image.device
    with evaluated(model, hooks):
        model(image)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return max(1, int(_free_bytes(device) / 2 / (4 * weights + 2 * rows * handed_on)))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
