"""Datasets and transfer sets that the tasks of one process share, opened once and checked."""

from collections.abc import Callable
from pathlib import Path

import torch

from kd_ray.config import DataOptions, Recipe, TransferSetOptions
from kd_ray.datasets import Dataset, check_augment, open_dataset
from kd_ray.errors import ConfigError
from kd_ray.specialists import check_classes
from kd_ray.training.student import StudentFeeds, check_student, student_feeds
from kd_ray.transfer_set import (
    FEWEST_CLASSES,
    Manifest,
    TransferSet,
    check_fit,
    open_transfer_set,
    read_manifest,
)


def check_data(manifest: Manifest, dataset: Dataset) -> None:
    """Refuses a transfer set of other images, labels or classes; see `check_fit`."""
    check_fit(manifest, dataset_fingerprint=dataset.fingerprint, class_names=dataset.class_names)


def check_recipe(recipe: Recipe, dataset: Dataset) -> None:
    """Refuses what a later stage could not do with these rows, so that no teacher is trained.

    Raises:
        ConfigError: what `check_classes`, `check_student` and `check_stored` raise.
    """
    check_classes(recipe, dataset.class_names)
    check_student(recipe.student, dataset)
    check_stored(recipe.transfer_set, dataset)


def check_stored(options: TransferSetOptions, dataset: Dataset) -> None:
    """Refuses views or pixels that rows do not have.

    Raises:
        ConfigError: what `check_augment` raises, pixels are to be stored, but there are none, or
            there are too few classes for compact logits.
    """
    classes = len(dataset.class_names)
    if options.dtype.startswith("compact") and classes < FEWEST_CLASSES:
        raise ConfigError(
            f"transfer_set.dtype: {options.dtype!r} is for {FEWEST_CLASSES} classes or more, but "
            f'{dataset.name} has {classes}; set it to "float16"'
        )
    check_augment(options.augment, dataset.train.images)
    if options.include_images and dataset.train.images.dtype != torch.uint8:
        raise ConfigError(
            f"transfer_set.include_images: stores pixels of 8 bits, but {dataset.name} has frames "
            "of recordings; set it to false"
        )


class Inputs:
    """Opens what a task needs, and hands the same thing out again."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._students: dict[str, tuple[TransferSet, StudentFeeds]] = {}

    def dataset(self, options: DataOptions, manifest: Manifest | None = None) -> Dataset:
        """The images and labels of `[data]`; those of a transfer set, where its manifest is given.

        Raises:
            TransferSetError: the set is of other images, labels or classes.
        """
        key = options.model_dump_json()
        if key not in self._datasets:
            self._datasets[key] = open_dataset(options)
        found = self._datasets[key]
        if manifest is not None:
            check_data(manifest, found)
        return found

    def students(
        self,
        folder: Path,
        data: DataOptions,
        device: torch.device,
        check: Callable[[Manifest], None] = lambda manifest: None,
    ) -> tuple[TransferSet, StudentFeeds]:
        """A verified transfer set, and its rows on the device.

        Args:
            folder: of the transfer set.
            data: where pixels come from, if the set has none.
            device: of the rows.
            check: of the manifest, before anything else is read.

        Raises:
            TransferSetError: the set is altered, or does not fit the data.
        """
        manifest = read_manifest(folder)
        key = f"{folder} {manifest.sha256} {data.model_dump_json()} {device}"
        if key not in self._students:
            check(manifest)
            dataset = self.dataset(data, manifest) if manifest.plan.needs_dataset else None
            streamed = dataset is not None and not isinstance(dataset.train.images, torch.Tensor)
            opened = open_transfer_set(folder, on_disk=streamed)
            self._students[key] = (opened, student_feeds(opened, dataset).held(device, data.hold))
        return self._students[key]
