"""Datasets as tensors, and seeded views of their images.

Images, or frames of speech, and labels are in a fixed order, with a fingerprint. They are read into
memory once, or streamed from a packed dataset.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import pick
from kd_ray.config import DataOptions
from kd_ray.datasets.cifar import read_cifar10, read_cifar100
from kd_ray.datasets.dataset import FULL_SCALE, Dataset, Split
from kd_ray.datasets.digits import read_digits
from kd_ray.datasets.hold import Holding, device_holding, held, host_holding
from kd_ray.datasets.imagefolder import listed_imagefolder, read_imagefolder
from kd_ray.datasets.listed import Lists
from kd_ray.datasets.mnist import read_fashion_mnist, read_mnist
from kd_ray.datasets.own import own_problems, read_own
from kd_ray.datasets.packed.images import PackedImages
from kd_ray.datasets.packed.read import read_packed
from kd_ray.datasets.recordings import Recordings
from kd_ray.datasets.selection import (
    choose_rows,
    hidden_labels,
    select,
)
from kd_ray.datasets.spoken_digits import read_spoken_digits
from kd_ray.datasets.storage import given_root
from kd_ray.datasets.svhn import read_svhn
from kd_ray.datasets.table import listed_table, read_table
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
    "packed": read_packed,
}

LISTED: Mapping[str, Callable[[DataOptions], AbstractContextManager[Lists]]] = {
    "imagefolder": listed_imagefolder,
    "parquet": listed_table,
    "csv": listed_table,
}
"""Datasets whose pictures can be listed without being in memory."""


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
    return held(select(dataset, options), options)
