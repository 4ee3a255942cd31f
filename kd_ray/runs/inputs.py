"""Datasets and transfer sets that the tasks of one process share, opened once and checked."""

from typing import Any

import torch
from torch import nn

from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.runs.fit import read_result, result_model
from kd_ray.runs.task import Task, teacher_folders, transfer_set_folder
from kd_ray.runs.variants import ONLINE, SPECIALIZED
from kd_ray.training.saved_model import SavedModel, load_model
from kd_ray.training.student import StudentFeeds, student_feeds
from kd_ray.transfer_set import Manifest, TransferSet, check_fit, open_transfer_set, read_manifest


class Inputs:
    """Opens what a task needs, and hands the same thing out again."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._students: dict[str, tuple[TransferSet, StudentFeeds]] = {}

    def dataset(self, recipe: Recipe) -> Dataset:
        """The images and labels of `[data]`."""
        key = recipe.data.model_dump_json()
        if key not in self._datasets:
            self._datasets[key] = open_dataset(recipe.data)
        return self._datasets[key]

    def students(
        self, task: Task, recipe: Recipe, device: torch.device
    ) -> tuple[TransferSet, StudentFeeds]:
        """The verified transfer set of a run, and its rows on the device.

        Raises:
            TransferSetError: the set is altered, or does not fit the data or the run's teachers.
        """
        folder = transfer_set_folder(recipe, to_path(task.run), task.variant)
        manifest = read_manifest(folder)
        key = f"{folder} {manifest.sha256} {recipe.data.model_dump_json()} {device}"
        if key not in self._students:
            # Of the specialists' set, the parents that its result names were checked with it.
            if recipe.transfer_set.path is None and task.variant != SPECIALIZED:
                hashes = [saved.sha256 for saved, _ in load_teachers(task, recipe)]
                check_fit(manifest, teacher_sha256s=hashes, views=recipe.transfer_set.views)
            dataset = None
            if not manifest.plan.include_images:
                dataset = self.dataset(recipe)
                check_fit(
                    manifest,
                    dataset_fingerprint=dataset.fingerprint,
                    class_names=dataset.class_names,
                )
            opened = open_transfer_set(folder)
            self._students[key] = (opened, student_feeds(opened, dataset).to(device))
        return self._students[key]


def load_teachers(
    task: Task, recipe: Recipe, device: torch.device | None = None
) -> list[tuple[SavedModel, dict[str, Any]]]:
    """Every member of a run's ensemble with its result, in order, on the CPU or `device`.

    Raises:
        CheckpointError: a member has not finished.
    """
    found = []
    for folder in teacher_folders(recipe, to_path(task.run)):
        saved = load_model(result_model(folder), device or torch.device("cpu"))
        found.append((saved, read_result(folder) or {}))
    return found


def teachers_at_hand(
    task: Task, recipe: Recipe, manifest: Manifest, device: torch.device
) -> list[nn.Module]:
    """The models that a variant runs in every step; none of one that learns from stored logits.

    Raises:
        ConfigError: the recipe does not say where they are.
        TransferSetError: the teachers are not those of the transfer set.
    """
    if task.variant != ONLINE:
        return []
    given = recipe.transfer_set.path is not None
    if recipe.teacher is None or (given and recipe.teacher.path is None):
        raise ConfigError(
            f"{task.title}: runs the teacher in every step, but beside transfer_set.path only "
            "teacher.path says where that is; name the run folder that has trained it"
        )
    saved = [teacher for teacher, _ in load_teachers(task, recipe, device)]
    check_fit(manifest, teacher_sha256s=[teacher.sha256 for teacher in saved])
    return [teacher.model for teacher in saved]
