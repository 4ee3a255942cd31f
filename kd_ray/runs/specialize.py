"""The stage that trains a specialist, and all of them back from their checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch

from kd_ray.config import Recipe
from kd_ray.errors import CheckpointError
from kd_ray.files import to_path
from kd_ray.runs.fit import result_model
from kd_ray.runs.group_classes import check_generalist, read_groups
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.setup import Prepared
from kd_ray.runs.task import Task, generalist_folder, specialist_folder, transfer_set_folder
from kd_ray.specialists import (
    ClassGroups,
    new_specialist,
    special_feed,
    specialize,
    training_feed,
)
from kd_ray.training.losses import MEAN_OF_ALL
from kd_ray.training.saved_model import SavedModel, load_model
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import Manifest, check_fit, read_manifest
from kd_ray.transfer_set.plan import class_difference


def prepare_specialist(task: Task, worker: Worker, inputs: Inputs) -> Prepared:
    """One specialist, with the weights of the generalist and the dataset it learns from."""
    recipe = task.read_recipe()
    assert recipe.specialists is not None
    run, options = to_path(task.run), recipe.specialists.train
    groups, sha256 = read_groups(run)
    special = groups.special[task.member]
    manifest = read_manifest(transfer_set_folder(recipe, run))
    dataset = inputs.dataset(recipe)
    check_fit(manifest, dataset_fingerprint=dataset.fingerprint, class_names=dataset.class_names)
    generalist = load_generalist(recipe, run, manifest)
    feed = training_feed(dataset, generalist, special, options, task.member)
    test = special_feed(dataset.test, generalist, special).to(worker.device)
    validation = special_feed(dataset.validation, generalist, special).to(worker.device)
    return Prepared(
        kind="specialist",
        model=new_specialist(generalist, special, feed.correction),
        model_table=generalist.meta.model,
        quantizer=None,
        input=generalist.meta.input,
        class_names=generalist.meta.class_names,
        options=options,
        parents={
            "dataset": dataset.fingerprint,
            "generalist": generalist.sha256,
            "clusters": sha256,
        },
        events=lambda training: specialize(
            training, feed, options, task.member, worker, validation if validation.rows else None
        ),
        test=test,
        ensemble=MEAN_OF_ALL,
        special=list(special),
        told={
            "classes": [dataset.class_names[number] for number in special],
            "special_rows": len(feed.special),
            "dustbin_correction": feed.correction,
        },
    )


def load_generalist(recipe: Recipe, run: Path, manifest: Manifest) -> SavedModel:
    """The teacher that specialists start from, on the CPU.

    Raises:
        CheckpointError: it has not finished, or is not the one that labelled the transfer set.
        TransferSetError: the transfer set has no logits of such a member.
    """
    assert recipe.specialists is not None
    member = recipe.specialists.generalist
    check_generalist(recipe.specialists, len(manifest.plan.teachers))
    saved = load_model(result_model(generalist_folder(recipe, run)), torch.device("cpu"))
    labelled = manifest.plan.teachers[member].sha256
    if saved.sha256 != labelled:
        raise CheckpointError(
            f"{saved.path}: the generalist must be the one that labelled the transfer set, with "
            f"weights {labelled[:12]}, but has {saved.sha256[:12]}; label anew, or restore it"
        )
    return saved


def load_specialists(
    task: Task, groups: ClassGroups, class_names: Sequence[str], device: torch.device
) -> list[SavedModel]:
    """Every specialist of a run in evaluation mode, in order, on a device.

    Raises:
        CheckpointError: one has not finished, or has other classes than the groups say.
    """
    found = []
    for number, special in enumerate(groups.special):
        saved = load_model(result_model(specialist_folder(to_path(task.run), number)), device)
        check_class_map(saved, number, special, class_names)
        found.append(saved)
    return found


def check_class_map(
    saved: SavedModel, number: int, special: Sequence[int], class_names: Sequence[str]
) -> None:
    """Refuses a specialist that was trained for other classes than the groups give it.

    Raises:
        CheckpointError: naming the specialist and the first class that differs.
    """
    theirs = tuple(saved.meta.class_names[place] for place in saved.meta.special or [])
    ours = tuple(class_names[place] for place in special)
    everything = tuple(saved.meta.class_names), tuple(class_names)
    for there, here in ((theirs, ours), everything):
        if there != here:
            raise CheckpointError(
                f"{saved.path}: specialist {number} must have the classes of its group, but "
                f"{class_difference(there, here)} (here the specialist, there the group); "
                "remove its folder to train it again"
            )
