"""Datasets as tensors, and seeded views of their images.

Everything is read into memory once: images, or frames of speech, and labels in a fixed order, with
a fingerprint.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import pick
from kd_ray.config import DataOptions
from kd_ray.datasets.cifar import read_cifar10, read_cifar100
from kd_ray.datasets.dataset import FULL_SCALE, Dataset, Split
from kd_ray.datasets.digits import read_digits
from kd_ray.datasets.imagefolder import read_imagefolder
from kd_ray.datasets.mnist import read_fashion_mnist, read_mnist
from kd_ray.datasets.own import own_problems, read_own
from kd_ray.datasets.recordings import Recordings
from kd_ray.datasets.selection import (
    FRACTION,
    KNOWN,
    choose_rows,
    class_numbers,
    hidden_labels,
    sample_of_each_class,
    validation_rows,
)
from kd_ray.datasets.spoken_digits import read_spoken_digits
from kd_ray.datasets.storage import given_root
from kd_ray.datasets.svhn import read_svhn
from kd_ray.datasets.table import read_table
from kd_ray.datasets.views import check_augment, render
from kd_ray.errors import DataError, UnknownNameError
from kd_ray.own_code import is_dotted

DATASETS: Mapping[str, Callable[[DataOptions], Dataset]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "fashion-mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "spoken-digits": read_spoken_digits,
    "imagefolder": read_imagefolder,
    "parquet": read_table,
    "csv": read_table,
}


def dataset_problems(where: str, options: DataOptions) -> list[str]:
    """What is wrong with `[data]`, at `where`, that shows before any file is read."""
    if is_dotted(options.name):
        return own_problems(where, options)
    try:
        pick("dataset", DATASETS, options.name)
    except UnknownNameError as error:
        return [f"{where}.name: {error}"]
    return []


def open_dataset(options: DataOptions) -> Dataset:
    """The dataset that `[data]` describes.

    First the classes are chosen, then validation rows are carved from the training split, then the
    fraction of the rest is taken, then labels are hidden: so the validation split is the same for
    every fraction. Rows keep their order.

    Raises:
        ConfigError: an unknown dataset or class, no training row would be left, or own code fails.
        DataError: files are missing, empty or corrupt.
    """
    read = read_own if is_dotted(options.name) else pick("dataset", DATASETS, options.name)
    dataset = read(options)
    labels = dataset.train.labels
    if len(present := torch.unique(labels[labels != UNLABELLED])) < 2:
        few = ", ".join(repr(dataset.class_names[number]) for number in present.tolist())
        raise DataError(
            f"{options.name}: must have training images of at least two classes to tell apart, but "
            f"has only those of {few or 'none'}; add another class"
        )
    if options.classes is not None:
        dataset = _of_classes(dataset, options.classes)
    if options.validation:
        train = dataset.train
        held_out = validation_rows(train.labels, options.validation, options.seed, train.recordings)
        validation = train.part("validation", held_out)
        dataset = replace(dataset, train=train.part("train", ~held_out), validation=validation)
    train = dataset.train
    if options.fraction < 1:
        kept = sample_of_each_class(
            train.labels, options.fraction, options.seed, FRACTION, train.recordings
        )
        train = train.part("train", kept)
    if options.labelled < 1:
        known = sample_of_each_class(
            train.labels, options.labelled, options.seed, KNOWN, train.recordings
        )
        train = replace(train, labels=train.labels.where(known, UNLABELLED))
    return replace(dataset, train=train, standardized=options.standardize)


def _of_classes(dataset: Dataset, classes: list[str]) -> Dataset:
    """The rows of these classes, with labels renumbered from 0 in the order of all classes."""
    kept = torch.tensor(class_numbers(dataset.train.labels, dataset.class_names, classes))

    def part(split: Split) -> Split:
        few = split.part(split.name, torch.isin(split.labels, kept))
        if split.rows and not few.rows:
            raise DataError(
                f"data.classes: the {split.name} split must have images of them, but has none; "
                "choose other classes"
            )
        return replace(few, labels=torch.searchsorted(kept, few.labels))

    names = tuple(dataset.class_names[number] for number in kept.tolist())
    train, validation, test = map(part, (dataset.train, dataset.validation, dataset.test))
    return Dataset(dataset.name, names, train, validation, test)
