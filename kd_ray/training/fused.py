"""Students of one architecture, trained as one: weights are stacked, a step is one for all.

A student alone is often too small to fill a core, and what a step costs besides arithmetic it costs
for each. Here a forward and a backward pass, the batch and the loss are computed for S students at
once. Each keeps its model, optimizer, schedule, T, c and order of batches: it learns what it would
learn alone, but for the order of float sums. Between two epochs nothing is stacked, so a student
may leave, join or be checkpointed there.
"""

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice

import torch
from torch import Tensor, nn

from kd_ray.batch import Batch
from kd_ray.models import bounded_layers
from kd_ray.quant.trace import evaluated
from kd_ray.training.batch_loss import losses_of_all
from kd_ray.training.epoch import TICK_S, Turn, autocast, step_sums
from kd_ray.training.losses import exact
from kd_ray.training.optimizer import SteadySteps
from kd_ray.training.progress import Step
from kd_ray.training.stack import Single, Stack, alike, stacked
from kd_ray.training.workers import Worker

TRIED = 8
"""Students that are tried, as each costs steps."""
CLEARLY = 0.9
"""Share of the time alone below which students are faster as one: more than are tried may no longer
fit into a CPU's caches."""
TRIED_STEPS = 4
"""Steps that are timed, each way, to see which is faster; the first of them is not counted."""
ENOUGH_S = 0.1
"""After so much of it, students are no longer tried alone: each takes as long as the others."""


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
    students = [_Student(turn) for turn in turns]
    started = ticked = time.perf_counter()
    with stacked([turn.training.model for turn in turns]) as stack:
        for step, batches in enumerate(_batches(turns, worker)):
            sums += _step(students, stack, batches, step, worker)
            now = time.perf_counter()
            if now - ticked > TICK_S:
                ticked = now
                rate = bounds[step][1] * len(turns) / (now - started)
                yield Step(number, step + 1, len(bounds), rate)
    of_each = sums.T.tolist()
    seconds = (time.perf_counter() - started) / len(turns)
    for turn, student, own in zip(turns, students, of_each, strict=True):
        turn.finish(own, student.norms, turn.feed.rows, seconds)


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
    kinds = alike([turn.training.model for turn in turns])
    copies = [_copy(turns[place]) for places in kinds for place in places[:2]]
    try:
        with stacked([turn.training.model for turn in copies]) as stack:
            students = [_Student(turn) for turn in copies]
            _step(students, stack, next(_batches(copies, worker)), 0, worker)
    except RuntimeError as error:
        if "random" in str(error):
            return "their model draws random numbers in training, such as those of dropout"
        return f"torch cannot stack their model ({str(error).splitlines()[0].split('. ')[0]})"
    return None


def is_faster(turns: Sequence[Turn], worker: Worker) -> bool:
    """Whether steps take clearly less time as one than one after the other; on copies of a few."""
    copies = [_copy(turn) for turn in turns[:TRIED]]
    tried = list(islice(_batches(copies, worker), TRIED_STEPS))

    def seconds_of(
        turns: Sequence[Turn], network: Stack | Single, of_all: Sequence[Sequence[Batch]]
    ) -> float:
        seconds = []
        students = [_Student(turn) for turn in turns]
        for step, batches in enumerate(of_all):
            started = time.perf_counter()
            _step(students, network, batches, step, worker)
            if worker.device.type == "cuda":
                torch.cuda.synchronize(worker.device)
            seconds.append(time.perf_counter() - started)
        return sum(seconds[1:] or seconds)

    # One after the other as an epoch is: all steps of one, whose weights then stay in the caches.
    alone: list[float] = []
    for place, turn in enumerate(copies):
        batches = [[some[place if len(some) > 1 else 0]] for some in tried]
        alone.append(seconds_of([turn], Single(turn.training.model), batches))
        if place and sum(alone) > ENOUGH_S:
            break
    with stacked([turn.training.model for turn in copies]) as stack:
        together = seconds_of(copies, stack, tried)
    return together / len(copies) < CLEARLY * sum(alone) / len(alone)


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


class _Student:
    """One of those that are trained as one, with what is the same in all steps of an epoch."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.take_step = SteadySteps(turn.training.optimizer)
        self.bounded = bounded_layers(turn.training.model)
        self.norms: list[Tensor] = []


def _step(
    students: Sequence[_Student],
    stack: Stack | Single,
    batches: Sequence[Batch],
    step: int,
    worker: Worker,
) -> Tensor:
    """One step of all; returns its `step_sums`, `(5, S)`."""
    turns = [student.turn for student in students]
    steps = len(turns[0].bounds)
    done = [turn.set_knobs(step, steps) for turn in turns]
    shared = len(batches) == 1
    images = batches[0].images if shared else torch.stack([batch.images for batch in batches])
    with autocast(turns[0].options.precision, worker.device):
        logits = stack(images)
    loss = losses_of_all([turn.objective for turn in turns], exact(logits), batches, done)
    loss.total.sum().backward()  # type: ignore[no-untyped-call]
    with stack.gradients_of_each():
        for student in students:
            student.norms += student.turn.clip(step)
            student.take_step()
            for layer in student.bounded:
                layer.project_()
    labels = batches[0].labels if shared else torch.stack([batch.labels for batch in batches])
    return step_sums(loss, logits, labels)


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
