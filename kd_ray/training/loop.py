"""The training loop: one generator that teacher and student share.

It yields records and has no listeners; it knows nothing of Ray, files or the terminal. Every
random number derives from (seed, epoch, rank), so a run that continues from a checkpoint draws
what it would have drawn.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.batch import UNLABELLED, Batch, Feed
from kd_ray.config import Objective, Train
from kd_ray.errors import ConfigError, TrainingError
from kd_ray.models import project_
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import MEAN_OF_ALL, Ensemble, Loss, distillation_loss
from kd_ray.training.objectives import HINTON, soft_term
from kd_ray.training.optimizer import set_knobs, take_step
from kd_ray.training.order import batch_bounds, derived_seed
from kd_ray.training.progress import Epoch, EpochPart, Leg, Notice, Step, Training
from kd_ray.training.schedule import Schedule, make_schedule
from kd_ray.training.workers import (
    Worker,
    average_buffers,
    distributed,
    summed,
    summed_with_gradient,
)

ObjectiveFunction = Callable[[Tensor, Batch, float], Loss]
"""(student logits `(N, K)`, batch, share of the run done) -> loss."""

TICK_S = 0.5
NOTICE_EVERY = 25
"""Steps from asking for a notice to asking again."""
LEG_STEPS = 1000
"""Steps of an epoch after which all random numbers are drawn anew from the seed, so that a training
that goes on from there draws the same: most epochs are shorter."""
NORM_EVERY = 10
"""Steps from one look at the gradient's norm to the next: it costs a pass over all weights."""


def objective_function(
    objective: Objective, smoothing: float, ensemble: Ensemble = MEAN_OF_ALL
) -> ObjectiveFunction:
    """The loss of a batch, with c as it stands when a share of the run is done.

    Args:
        objective: T, the weights of the terms, and what the soft term learns from.
        smoothing: share of the label's mass that is spread evenly over all K classes.
        ensemble: how the teachers are averaged.
    """
    soft_weight = objective.soft_weight.value(objective.temperature)
    term = soft_term(
        objective.name,
        objective.options or {},
        T=objective.temperature,
        ensemble=ensemble,
        over_workers=summed_with_gradient,
    )

    def loss(logits: Tensor, batch: Batch, progress: float) -> Loss:
        return distillation_loss(
            logits,
            batch.labels,
            batch.teacher_logits,
            temperature=objective.temperature,
            soft_weight=soft_weight * share_of_weight(objective, progress),
            hard_weight=objective.hard_weight,
            targets=objective.targets,
            ensemble=ensemble,
            soft_term=None if objective.name == HINTON else term,
            smoothing=smoothing,
            global_rows=batch.global_rows,
            global_labelled=batch.global_labelled,
        )

    return loss


def share_of_weight(objective: Objective, progress: float) -> float:
    """The share of c that is in force when a share of the run is done.

    >>> objective = Objective(soft_warmup=0.1, soft_decay=0.5)
    >>> [share_of_weight(objective, progress) for progress in (0.05, 0.5, 1.0)]
    [0.4875, 0.75, 0.5]
    """
    rise = min(1.0, progress / objective.soft_warmup) if objective.soft_warmup else 1.0
    return rise * (1 - objective.soft_decay * progress)


def label_objective(smoothing: float) -> ObjectiveFunction:
    """The loss of a model without a teacher: cross-entropy with labels at T = 1, in nats."""
    return objective_function(Objective.model_validate({"soft_weight": 0}), smoothing)


def fit(
    training: Training,
    feed: Feed,
    objective: ObjectiveFunction,
    options: Train,
    *,
    seed: int,
    worker: Worker,
    validation: TensorFeed | None = None,
    ensemble: Ensemble = MEAN_OF_ALL,
) -> Iterator[Step | Notice | Leg | Epoch]:
    """Trains until `options` say it is over, from wherever `training` is.

    Args:
        training: changed in place; its state after an `Epoch` is what a checkpoint should hold.
        feed: rows to learn from.
        objective: the loss of one batch.
        options: epochs, batch size, schedule, precision.
        seed: seed of the order of rows and of dropout.
        worker: this process among the workers; all of them call this with the same arguments.
        validation: rows to choose among epochs by.
        ensemble: how teachers are averaged where agreement with them is measured.

    Yields:
        `Step` now and then, `Notice` when one came, `Leg` after each part of a long epoch, `Epoch`
        after each epoch, on every worker.

    Raises:
        ConfigError: fewer rows or a smaller batch than workers.
        TrainingError: a loss that is not finite.
    """
    if min(options.batch_size, feed.rows) < worker.world:
        raise ConfigError(
            f"train.batch_size: must be at least the number of workers ({worker.world}), "
            f"but the batch has {min(options.batch_size, feed.rows)} rows; use fewer workers"
        )
    network = _runnable(training.model, options, worker)
    schedule = make_schedule(options.schedule.name, options.schedule.options)
    while not training.is_over(options):
        started = time.perf_counter()
        metrics = yield from _train_epoch(
            training, network, feed, objective, options, schedule, seed=seed, worker=worker
        )
        images_per_s = metrics.pop("images_per_s")
        average_buffers(training.model)
        if validation is not None:
            metrics |= evaluate(training.model, validation, worker, ensemble)
        seconds = time.perf_counter() - started
        epoch = Epoch(training.epoch + 1, metrics, seconds, images_per_s)
        training.note(epoch)
        yield epoch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass: bf16 where asked for, or where `auto` finds a GPU with it."""
    use = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)


def _runnable(model: nn.Module, options: Train, worker: Worker) -> Callable[[Tensor], Tensor]:
    network: Any = model
    if options.compile:
        network = torch.compile(network)
    if worker.world > 1:
        network = distributed(network, model)
    return network  # type: ignore[no-any-return]


def _train_epoch(
    training: Training,
    network: Callable[[Tensor], Tensor],
    feed: Feed,
    objective: ObjectiveFunction,
    options: Train,
    schedule: Schedule,
    *,
    seed: int,
    worker: Worker,
) -> Generator[Step | Notice | Leg, None, dict[str, float]]:
    """One pass over the rows; a generator whose return value is the epoch's training metrics."""
    number = training.epoch + 1
    part = training.part or EpochPart(0, [0.0] * 5, [])
    begun = [part.steps] if part.steps else []  # what was drawn before a notice is not drawn again
    torch.manual_seed(derived_seed(seed, "dropout", number, worker.rank, *begun))
    bounds = batch_bounds(feed.rows, options.batch_size)
    all_steps = len(bounds) * options.epochs
    norms = [torch.tensor(norm, device=worker.device) for norm in part.norms]
    sums = torch.tensor(part.sums, dtype=torch.float64, device=worker.device)
    sums *= worker.is_first  # they are of all workers
    first, _ = bounds[part.steps]
    training.model.train()
    started = ticked = time.perf_counter()
    batches = feed.batches(seed, number, options.batch_size, part.steps, worker.part_of)
    for step, batch in enumerate(batches, part.steps):
        done = (number - 1) * len(bounds) + step
        knobs = schedule(done, len(bounds), all_steps)
        rate = options.lr * knobs.lr_scale
        set_knobs(training.optimizer, rate, knobs.momentum)
        with autocast(options.precision, worker.device):
            logits = network(batch.images)
        loss = objective(logits.float(), batch, done / all_steps)
        # DistributedDataParallel averages over workers; these are parts of one sum.
        (loss.total * worker.world).backward()  # type: ignore[no-untyped-call]
        if options.grad_clip is not None or step % NORM_EVERY == 0:
            largest = torch.inf if options.grad_clip is None else options.grad_clip
            norms.append(nn.utils.clip_grad_norm_(training.model.parameters(), largest))
        take_step(training.optimizer)
        training.optimizer.zero_grad()
        project_(training.model)
        sums += _step_sums(loss, logits, batch)
        now = time.perf_counter()
        if now - ticked > TICK_S:
            ticked = now
            yield Step(number, step + 1, len(bounds), (bounds[step][1] - first) / (now - started))
        # The end of an epoch needs no notice, as it has its checkpoint.
        done_steps = step + 1
        ended = done_steps % LEG_STEPS == 0 and done_steps < len(bounds)
        due = done_steps % NOTICE_EVERY == 0 and done_steps < len(bounds)
        noticed = due and worker.noticed is not None and worker.noticed()
        if noticed or ended:
            average_buffers(training.model)
            training.part = EpochPart(
                done_steps, summed(sums.clone()).tolist(), [float(norm) for norm in norms]
            )
            yield (Notice if noticed else Leg)(number, done_steps, len(bounds))
        if ended:  # whether somebody goes on from here or not
            torch.manual_seed(derived_seed(seed, "dropout", number, worker.rank, done_steps))
    total, hard, soft, correct, labelled = summed(sums).tolist()
    elapsed = time.perf_counter() - started
    if not math.isfinite(total):
        raise TrainingError(
            f"epoch {number}: the loss must be finite, but is {total}; "
            "lower the learning rate, clip gradients (grad_clip), or check the soft weight"
        )
    return {
        "train_loss": total / len(bounds),
        "hard_loss": hard / len(bounds),
        "soft_loss": soft / len(bounds),
        **({"train_accuracy": correct / labelled} if labelled else {}),
        "learning_rate": rate,
        "gradient_norm": float(torch.stack(norms).mean()),
        "images_per_s": (feed.rows - first) / elapsed,
    }


def _step_sums(loss: Loss, logits: Tensor, batch: Batch) -> Tensor:
    with torch.no_grad():
        labelled = batch.labels != UNLABELLED
        correct = (logits.argmax(1) == batch.labels).sum()
        parts = (loss.total, loss.hard, loss.soft, correct, labelled.sum())
        return torch.stack([part.detach().double() for part in parts])
