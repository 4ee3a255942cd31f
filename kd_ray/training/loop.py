"""The training loop: one generator that teacher and student share.

It yields records and has no listeners; it knows nothing of Ray, files or the terminal.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kd_ray.batch import Feed
from kd_ray.config import Train
from kd_ray.errors import ConfigError
from kd_ray.training.batch_loss import ObjectiveFunction
from kd_ray.training.epoch import TrainingEvent, Turn, train_epoch
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import MEAN_OF_ALL, Ensemble
from kd_ray.training.progress import Epoch, Training
from kd_ray.training.schedule import make_schedule
from kd_ray.training.workers import Worker, average_buffers, distributed


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
    fused: bool = False,
) -> Iterator[TrainingEvent]:
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
        fused: whoever listens trains the epochs, those of several trainings as one, see `fused`.

    Yields:
        `Step` now and then, `Notice` when one came, `Leg` after each part of a long epoch, `Epoch`
        after each epoch, on every worker; with
        `fused` a `Turn` before each epoch, which is to be done when the next event is asked for.

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
        turn = Turn(training, feed, objective, options, schedule, seed)
        if fused:
            yield turn
        else:
            yield from train_epoch(turn, network, worker)
        started = time.perf_counter()
        metrics = turn.figures()
        average_buffers(training.model)
        if validation is not None:
            metrics |= evaluate(training.model, validation, worker, ensemble)
        seconds = turn.seconds + time.perf_counter() - started
        epoch = Epoch(training.epoch + 1, metrics, seconds, turn.images_per_s)
        training.note(epoch)
        yield epoch


def _runnable(model: nn.Module, options: Train, worker: Worker) -> Callable[[Tensor], Tensor]:
    network: Any = model
    if options.compile:
        network = torch.compile(network)
    if worker.world > 1:
        network = distributed(network, model)
    return network  # type: ignore[no-any-return]
