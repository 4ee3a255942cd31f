"""The stage that trains a specialist, and all of them back from their checkpoints."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kd_ray.config import Recipe
from kd_ray.config.data import WHERE
from kd_ray.errors import CheckpointError, difference, numbered
from kd_ray.files import to_path
from kd_ray.result import SPECIALIST, read_result
from kd_ray.runs.fit import determining, result_model
from kd_ray.runs.group_classes import check_generalist, options_of, read_groups
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import transfer_set_folder
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.teach import model_line, teacher_folder, teacher_folders
from kd_ray.runs.train import Setup, description, train
from kd_ray.specialists import (
    ClassGroups,
    new_specialist,
    special_feed,
    specialize,
    training_feed,
)
from kd_ray.training.saved_model import SavedModel, load_model
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import Manifest, read_manifest


def specialist_folder(run: Path, number: int) -> Path:
    """The folder of a specialist below a run folder."""
    return run / "specialists" / f"member-{number:02d}"


def generalist_folder(recipe: Recipe, run: Path) -> Path:
    """The teacher that specialists start from; that of a given transfer set lies beside it."""
    member, path = options_of(recipe).generalist, recipe.transfer_set.path
    if path is not None:
        return teacher_folder(to_path(path).absolute().parent, member)
    return teacher_folders(recipe, run)[member]


def load_generalist(recipe: Recipe, run: Path, manifest: Manifest) -> SavedModel:
    """The teacher that specialists start from, on the CPU.

    Raises:
        CheckpointError: it has not finished, or is not the one that labelled the transfer set.
        TransferSetError: the transfer set has no logits of such a member.
    """
    options = options_of(recipe)
    check_generalist(options, len(manifest.plan.teachers))
    saved = load_model(result_model(generalist_folder(recipe, run)), torch.device("cpu"))
    labelled = manifest.plan.teachers[options.generalist].sha256
    if saved.sha256 != labelled:
        raise CheckpointError(
            f"{saved.path}: the generalist must be the one that labelled the transfer set, with "
            f"weights {labelled[:12]}, but has {saved.sha256[:12]}; label anew, or restore it"
        )
    return saved


def load_specialists(
    run: Path, groups: ClassGroups, class_names: Sequence[str], device: torch.device
) -> list[SavedModel]:
    """Every specialist of a run in evaluation mode, in order, on a device.

    Raises:
        CheckpointError: one has not finished, or has other classes than the groups say.
    """
    models = []
    for number, special in enumerate(groups.special):
        saved = load_model(result_model(specialist_folder(run, number)), device)
        theirs = [saved.meta.class_names[number] for number in saved.meta.special or []]
        own = theirs, [class_names[number] for number in special]
        everything = saved.meta.class_names, class_names
        for there, here in (own, everything):
            if differing := difference(numbered("class", there), numbered("class", here)):
                raise CheckpointError(
                    f"{saved.path}: specialist {number} must have the classes of its group, but "
                    f"{differing} (there the specialist, here the group); "
                    "remove its folder to train it again"
                )
        models.append(saved)
    return models


def _tasks(request: Request) -> list[Task]:
    numbers = range(options_of(request.recipe).count)
    return [request.task(SPECIALIZE, member=number) for number in numbers]


def _identity(task: Task) -> dict[str, Any]:
    options = options_of(task.recipe).model_dump(mode="json")
    return {
        "data": determining(task.recipe.data, *WHERE),
        "specialists": {"generalist": options["generalist"], "train": options["train"]},
        "member": task.member,
    }


def _parents(task: Task) -> dict[str, str]:
    folders = {
        "generalist": generalist_folder(task.recipe, task.run_folder),
        "clusters": task.run_folder / "specialists" / "clusters",
    }
    results = {name: read_result(folder) for name, folder in folders.items()}
    return {name: result.fingerprint for name, result in results.items() if result}


def _setup(task: Task, worker: Worker, inputs: Inputs) -> Setup:
    """One specialist, with the weights of the generalist and the dataset it learns from."""
    run, options = task.run_folder, options_of(task.recipe).train
    groups, sha256 = read_groups(run)
    special = groups.special[task.member]
    manifest = read_manifest(transfer_set_folder(task.recipe, run))
    dataset = inputs.dataset(task.data, manifest)
    generalist = load_generalist(task.recipe, run, manifest)
    feed = training_feed(dataset, generalist, special, options, task.member)
    test = special_feed(dataset.test, generalist, special).to(worker.device)
    validation = special_feed(dataset.validation, generalist, special).to(worker.device)
    parents = {"dataset": dataset.fingerprint, "generalist": generalist.sha256, "clusters": sha256}
    about = generalist.meta
    return Setup(
        model=new_specialist(generalist, special, feed.correction),
        about=description(
            task,
            about.model,
            about.input,
            about.class_names,
            special=list(special),
            parents=parents,
        ),
        options=options,
        events=lambda training: specialize(
            training, feed, options, task.member, worker, validation if validation.rows else None
        ),
        test=test,
        holding=feed.feed.holding(worker.device, "device"),
        details={
            "classes": [dataset.class_names[number] for number in special],
            "special_rows": len(feed.special),
            "dustbin_correction": feed.correction,
        },
    )


SPECIALIZE = Stage(
    name="specialize",
    kind=SPECIALIST,
    commands=("specialize",),
    table="specialists",
    training=lambda task: options_of(task.recipe).train,
    tasks=_tasks,
    title=lambda task: f"specialist {task.member}",
    folder=lambda task: specialist_folder(task.run_folder, task.member),
    identity=_identity,
    parents=_parents,
    perform=partial(train, _setup),
    summary=model_line,
)
