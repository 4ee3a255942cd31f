"""Training any model: checkpointed after each epoch, and resumed by itself."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from kd_ray.config import Train
from kd_ray.datasets import Holding
from kd_ray.files import remove_drafts
from kd_ray.models import parameter_count, placed
from kd_ray.quant import dead_layers, model_cost
from kd_ray.result import Result, write_result
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import check_same, finished_result, identity, record
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.task import Task
from kd_ray.training.checkpoint import (
    WEIGHTS,
    Meta,
    ModelInput,
    epoch_folder,
    latest_checkpoint,
    load_weights,
    read_meta,
    restore,
    retain,
    save,
)
from kd_ray.training.epoch import TrainingEvent
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import MEAN_OF_ALL, Ensemble
from kd_ray.training.metrics import FIGURES
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Epoch, Leg, Notice, Training
from kd_ray.training.words import WORD_FIGURES
from kd_ray.training.workers import Worker, from_first, together

LEG_S = 60.0
"""Seconds at least from one checkpoint to one within an epoch."""


@dataclass(frozen=True)
class Setup:
    """A training that can begin or go on.

    Attributes:
        model: before training.
        about: what its checkpoints say of it, epochs aside.
        options: epochs, schedule, which checkpoints to keep.
        events: the generator that trains.
        test: rows for the final figure.
        ensemble: how teachers are averaged where agreement is measured.
        start: the checkpoint to go on from where there is none of its own, or None.
        holding: where its rows are, and why; None for on the device.
        details: what else its result is to say.
    """

    model: nn.Module
    about: Meta
    options: Train
    events: Callable[[Training], Iterator[TrainingEvent]]
    test: TensorFeed
    ensemble: Ensemble = MEAN_OF_ALL
    start: Path | None = None
    holding: Holding | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def train(
    prepare: Callable[[Task, Worker, Inputs], Setup], task: Task, worker: Worker, inputs: Inputs
) -> Generator[Event]:
    """Trains the model of a task to its end, from wherever an earlier attempt left off.

    In order: 1. a finished result is checked and reported; 2. else the latest checkpoint is
    restored; 3. each epoch is checkpointed before it is reported, a long one within it as well;
    4. the test split is touched.
    """
    with together(worker.device):
        setup = prepare(task, worker, inputs)
        result = finished_result(task, setup.about.parents)
    if from_first(int(result is not None), worker.device):
        assert result is not None
        yield Finished(result, existed=True)
        return
    with together(worker.device):
        model = placed(setup.model, worker.device)
        training = Training(model, make_optimizer(model, setup.options))
        resumed_from = _resume(task, setup, training, worker)
    told = setup.holding is not None and setup.holding.where != "device"
    held = str(setup.holding) if told else None
    yield Started(setup.options.epochs, training.epoch, list(training.history), held)
    saved, saved_at = training.epoch, time.monotonic()
    for event in setup.events(training):
        if isinstance(event, Epoch | Notice | Leg):
            with together(worker.device):
                fewest_s = max(task.checkpoint_s, LEG_S if isinstance(event, Leg) else 0.0)
                waited = time.monotonic() - saved_at >= fewest_s
                kept = isinstance(event, Notice) or (
                    isinstance(event, Epoch) and _must_be_kept(task, training, setup.options)
                )
                if worker.is_first and (waited or kept):
                    _checkpoint(task, setup, training)
                    saved, saved_at = training.epoch, time.monotonic()
        if isinstance(event, Leg):
            continue
        try:
            yield event
        except GeneratorExit:
            if worker.is_first and isinstance(event, Epoch) and saved != training.epoch:
                _checkpoint(task, setup, training)
            raise
    with together(worker.device):
        path = epoch_folder(task.folder, training.result_epoch(setup.options))
        meta = read_meta(path)
        load_weights(path, meta, training.model)
    # It sums over the workers, so it has no place in a block that one of them may leave early.
    if task.touch_test:
        metrics = evaluate(training.model, setup.test, worker, setup.ensemble)
    else:
        epoch = training.history[meta.epoch - 1]
        metrics = {name: epoch[name] for name in (*FIGURES, *WORD_FIGURES) if name in epoch}
    result = _result(task, setup, training, path, metrics, resumed_from)
    with together(worker.device):
        if worker.is_first:
            write_result(task.folder, result)
    yield Finished(result, existed=False)


def description(
    task: Task, model: dict[str, Any], input: ModelInput, class_names: list[str], **fields: Any
) -> Meta:
    """What the checkpoints of a task's training say of it, epochs aside; see `checkpoint.Meta`."""
    return Meta(
        kind=task.stage.kind,
        model=model,
        input=input,
        class_names=class_names,
        recipe=task.recipe_table(),
        identity=identity(task),
        **fields,
    )


def _resume(task: Task, setup: Setup, training: Training, worker: Worker) -> int | None:
    """Brings `training` to the latest checkpoint, if there is one, and returns its epoch."""
    if worker.is_first:
        remove_drafts(task.folder)
    path = latest_checkpoint(task.folder)
    if not from_first(int(path is not None), worker.device):
        if worker.is_first and not setup.options.epochs:  # it is finished as it is
            _checkpoint(task, setup, training)
        if setup.start is None:
            return None
        meta = restore(setup.start, training)
        # Its best epoch is not in this folder, so the best is sought anew.
        training.best_epoch, training.best_accuracy, training.part = 0, float("-inf"), None
        training.fused = None
        return meta.epoch
    assert path is not None  # every worker sees the folder that the first one sees
    meta = read_meta(path)
    check_same(path, meta.identity, setup.about.identity)
    check_same(path, meta.parents, setup.about.parents)
    restore(path, training)
    training.fused = bool(training.fused)  # it goes on as it began
    return meta.epoch


def _must_be_kept(task: Task, training: Training, options: Train) -> bool:
    """Whether the epoch just finished is awaited, the last one, or the best and so the result."""
    best = options.keep == "best" and training.best_epoch == training.epoch
    return best or training.epoch in task.awaited or training.is_over(options)


def _checkpoint(task: Task, setup: Setup, training: Training) -> None:
    save(task.folder, setup.about, training)
    retain(task.folder, {training.epoch, training.result_epoch(setup.options)})


def _result(
    task: Task,
    setup: Setup,
    training: Training,
    path: Path,
    metrics: dict[str, float],
    resumed_from: int | None,
) -> Result:
    """The record of a training; `path` is the checkpoint that the test `metrics` are of."""
    cost = model_cost(training.model, setup.about.input.shape)
    history = training.history
    return record(
        task,
        variant=task.variant,
        seed=task.seed,
        metrics=metrics,
        parameters=parameter_count(training.model),
        packed_bytes=cost.packed_bytes,
        bit_operations=cost.bit_operations,
        layers=[asdict(layer) for layer in cost.layers],
        images_per_s=median([epoch["images_per_s"] for epoch in history] or [0.0]),
        seconds=round(sum(epoch["seconds"] for epoch in history), 2),
        epochs=training.epoch,
        checkpoint=path.name,
        weights_sha256=read_meta(path).files[WEIGHTS],
        dead_layers=dead_layers(history[-1].get("layers", {}) if history else {}),
        resumed_from=resumed_from,
        parents=setup.about.parents,
        history=history,
        **setup.details,
    )
