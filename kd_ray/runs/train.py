"""The stages that train: a teacher, or a student; checkpointed each epoch and resumed by itself."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kd_ray.config import Recipe, Train
from kd_ray.errors import CheckpointError
from kd_ray.files import remove_drafts, to_path, write_json
from kd_ray.models import parameter_count
from kd_ray.quant import dead_layers, model_cost
from kd_ray.runs.events import Event, Finished, Started
from kd_ray.runs.fit import RESULT, finished_result, start_checkpoint
from kd_ray.runs.identity import identity, quantizer_table
from kd_ray.runs.inputs import Inputs, teachers_at_hand
from kd_ray.runs.setup import Prepared
from kd_ray.runs.specialize import prepare_specialist
from kd_ray.runs.task import Task
from kd_ray.runs.variants import variant_options
from kd_ray.training.checkpoint import (
    UNDER_WAY,
    WEIGHTS,
    Meta,
    ModelInput,
    check_identity,
    epoch_folder,
    epochs_in,
    is_whole,
    read_meta,
    restore,
    retain,
    save,
    versions,
)
from kd_ray.training.feed import feed_of
from kd_ray.training.loop import evaluate
from kd_ray.training.losses import MEAN_OF_ALL
from kd_ray.training.metrics import FIGURES
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Epoch, Notice, Part, Training
from kd_ray.training.student import distill, ensemble_of, new_student
from kd_ray.training.teacher import new_teacher, teach
from kd_ray.training.workers import Worker, from_first, together

OPTIMIZER_KEY = "train.optimizer"


def train(task: Task, worker: Worker, inputs: Inputs) -> Generator[Event]:
    """Trains the model of a "teach", "specialize" or "distill" task to its end, from anywhere.

    In order: 1. a finished result is checked and reported; 2. else the latest checkpoint is
    restored; 3. each epoch is checkpointed before it is reported; 4. the test split is touched.
    """
    with together(worker.device):
        prepared = PREPARE[task.stage](task, worker, inputs)
        result = finished_result(task, prepared.parents)
    if from_first(int(result is not None), worker.device):
        yield Finished(result or {}, found=True)
        return
    with together(worker.device):
        # Convolutions are half as fast again with channels last, on CPUs and GPUs alike.
        model = prepared.model.to(worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        training = Training(model, make_optimizer(model, prepared.options))
        resumed_from = _resume(task, prepared, training, worker)
    yield Started(prepared.options.epochs, training.epoch, list(training.history))
    saved, saved_at = training.epoch, time.monotonic()
    for event in prepared.events(training):
        if isinstance(event, Epoch | Notice):
            with together(worker.device):
                waited = time.monotonic() - saved_at >= task.checkpoint_s
                kept = isinstance(event, Notice) or _must_be_kept(training, prepared.options)
                if worker.is_first and (waited or kept):
                    _checkpoint(task, prepared, training)
                    saved, saved_at = training.epoch, time.monotonic()
        try:
            yield event
        except GeneratorExit:
            if worker.is_first and isinstance(event, Epoch) and saved != training.epoch:
                _checkpoint(task, prepared, training)
            raise
    with together(worker.device):
        path = epoch_folder(task.folder, training.result_epoch(prepared.options))
        meta = read_meta(path)
        restore(path, meta, training.model)
    # It sums over the workers, so it has no place in a block that one of them may leave early.
    if task.touch_test:
        metrics = evaluate(training.model, prepared.test, worker, prepared.ensemble)
    else:
        record = training.history[meta.epoch - 1]
        metrics = {name: record[name] for name in FIGURES if name in record}
    finished = _result(task, prepared, training, path, metrics, resumed_from)
    with together(worker.device):
        if worker.is_first:
            write_json(task.folder / RESULT, finished)
    yield Finished(finished, found=False)


def prepare_teacher(task: Task, worker: Worker, inputs: Inputs) -> Prepared:
    """One member of the ensemble, with the dataset it learns from."""
    recipe = task.read_recipe()
    teacher = recipe.teacher
    assert teacher is not None
    dataset = inputs.dataset(recipe)
    return Prepared(
        kind="teacher",
        model=new_teacher(teacher, dataset, task.member),
        model_table=teacher.model_of(task.member).model_dump(mode="json"),
        quantizer=None,
        input=ModelInput(shape=dataset.image_shape, mean=dataset.mean, std=dataset.std),
        class_names=list(dataset.class_names),
        options=teacher.train,
        parents={"dataset": dataset.fingerprint},
        events=lambda training: teach(training, teacher, dataset, task.member, worker),
        test=feed_of(dataset.test, dataset.mean, dataset.std).to(worker.device),
        ensemble=MEAN_OF_ALL,
    )


def prepare_student(task: Task, worker: Worker, inputs: Inputs) -> Prepared:
    """One student, with the transfer set it learns from."""
    recipe = task.read_recipe()
    transfer_set, feeds = inputs.students(task, recipe, worker.device)
    plan = transfer_set.manifest.plan
    start = _start(task, recipe, plan.class_names)
    teachers = teachers_at_hand(task, recipe, transfer_set.manifest, worker.device)
    return Prepared(
        kind="student",
        model=new_student(recipe, feeds, len(plan.class_names), task.seed),
        model_table=recipe.student.model.model_dump(mode="json"),
        quantizer=quantizer_table(recipe),
        input=ModelInput(shape=plan.image_shape, mean=tuple(plan.mean), std=tuple(plan.std)),
        class_names=list(plan.class_names),
        options=variant_options(recipe, task.variant)[1],
        parents={
            "transfer_set": transfer_set.manifest.sha256,
            "dataset": plan.dataset_fingerprint,
            **({} if start is None else _origin(start)),
            **task.parents,
        },
        events=lambda training: distill(
            training, recipe, task.variant, task.seed, feeds, worker, teachers
        ),
        test=feeds.test,
        ensemble=ensemble_of(recipe.objective, feeds.members),
        start=start,
    )


PREPARE: Mapping[str, Callable[[Task, Worker, Inputs], Prepared]] = {
    "teach": prepare_teacher,
    "specialize": prepare_specialist,
    "distill": prepare_student,
}


def _start(task: Task, recipe: Recipe, class_names: Sequence[str]) -> Path | None:
    """The checkpoint that `student.continues` means for a task's seed, or None.

    Raises:
        CheckpointError: there is none, it is of other classes or of no fewer epochs.
    """
    if recipe.student.continues is None:
        return None
    path = start_checkpoint(task, recipe)
    if path is None:
        folder = to_path(recipe.student.continues) / f"seed-{task.seed}"
        raise CheckpointError(
            f"student.continues: {folder} must have a checkpoint to go on from, but has none; name "
            "a student's folder such as runs/mnist/student/distilled, and its seeds in train.seeds"
        )
    meta = read_meta(path)
    there = {"classes": meta.class_names, OPTIMIZER_KEY: meta.identity.get(OPTIMIZER_KEY)}
    here = {"classes": list(class_names), OPTIMIZER_KEY: recipe.train.optimizer}
    check_identity(path, there, here)
    if meta.epoch >= recipe.train.epochs:
        raise CheckpointError(
            f"student.continues: {path} has {meta.epoch} epochs behind it, so train.epochs must be "
            f"more, but is {recipe.train.epochs}; ask for more epochs"
        )
    return path


def _origin(start: Path) -> dict[str, str]:
    """Parents of what goes on from a checkpoint: its weights, and the trial that they are of."""
    meta = read_meta(start)
    trial = {name: is_of for name, is_of in meta.parents.items() if name in ("sweep", "trial")}
    return {"checkpoint": meta.files[WEIGHTS], **trial}


def _resume(task: Task, prepared: Prepared, training: Training, worker: Worker) -> int | None:
    """Brings `training` to the latest checkpoint, if there is one, and returns its epoch."""
    if worker.is_first:
        remove_drafts(task.folder)
    latest = from_first((epochs_in(task.folder) or [0])[-1], worker.device)
    part = is_whole(task.folder / UNDER_WAY) and read_meta(task.folder / UNDER_WAY).epoch >= latest
    under_way = from_first(int(part), worker.device)
    if not latest and not under_way and prepared.start is not None:
        meta = read_meta(prepared.start)
        restore(prepared.start, meta, training.model, training.optimizer)
        training.epoch = meta.epoch
        training.history = list(meta.history)
        return meta.epoch  # its best epoch is not in this folder, so the best is sought anew
    if not latest and not under_way:
        return None
    path = task.folder / UNDER_WAY if under_way else epoch_folder(task.folder, latest)
    meta = read_meta(path)
    check_identity(path, meta.identity, identity(task))
    check_identity(path, meta.parents, prepared.parents)
    restore(path, meta, training.model, training.optimizer)
    training.epoch = meta.epoch
    training.history = list(meta.history)
    training.best_epoch = int(meta.progress["best_epoch"] or 0)
    best = meta.progress["best_accuracy"]
    training.best_accuracy = float("-inf") if best is None else float(best)
    training.part = None if meta.part is None else Part(**meta.part)
    return meta.epoch


def _must_be_kept(training: Training, options: Train) -> bool:
    """Whether the epoch just finished is the last one, or the result so far by being the best."""
    best = options.keep == "best" and training.best_epoch == training.epoch
    return best or training.is_over(options)


def _checkpoint(task: Task, prepared: Prepared, training: Training) -> None:
    best = training.best_accuracy if training.best_epoch else None
    meta = Meta(
        kind=prepared.kind,
        epoch=training.epoch,
        model=prepared.model_table,
        quantizer=prepared.quantizer,
        input=prepared.input,
        class_names=prepared.class_names,
        special=prepared.special,
        recipe=task.recipe,
        identity=identity(task),
        parents=prepared.parents,
        progress={"best_epoch": training.best_epoch, "best_accuracy": best},
        history=training.history,
        part=None if training.part is None else asdict(training.part),
    )
    save(task.folder, meta, training.model, training.optimizer)
    retain(task.folder, {training.epoch, training.result_epoch(prepared.options)})


def _result(
    task: Task,
    prepared: Prepared,
    training: Training,
    path: Path,
    metrics: dict[str, float],
    resumed_from: int | None,
) -> dict[str, Any]:
    """The content of `result.json`; `path` is the checkpoint that the test `metrics` are of."""
    cost = model_cost(training.model, prepared.input.shape)
    return {
        "stage": task.stage,
        "name": task.recipe["name"],
        "status": "finished",
        "title": task.title,
        "variant": task.variant,
        "seed": task.seed,
        "metrics": metrics,
        **prepared.told,
        "parameters": parameter_count(training.model),
        "packed_bytes": cost.packed_bytes,
        "bit_operations": cost.bit_operations,
        "layers": [asdict(layer) for layer in cost.layers],
        "images_per_s": median(record["images_per_s"] for record in training.history),
        "seconds": round(sum(record["seconds"] for record in training.history), 2),
        "epochs": training.epoch,
        "checkpoint": path.name,
        "weights_sha256": read_meta(path).files[WEIGHTS],
        "dead_layers": dead_layers(training.history[-1].get("layers", {})),
        "resumed_from": resumed_from,
        "parents": prepared.parents,
        "identity": identity(task),
        "recipe": task.recipe,
        "versions": versions(),
        "history": training.history,
    }
