"""CIFAR-10 and CIFAR-100: pickles, so only files with the published checksum are ever opened."""

import warnings
from typing import Any

import numpy as np
import torch

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.storage import data_root, md5_of, need_files, readable
from kd_ray.errors import DataError


def read_cifar10(options: DataOptions) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour pictures, 32 x 32, 10 classes."""
    return _read("CIFAR10", options)


def read_cifar100(options: DataOptions) -> Dataset:
    """CIFAR-100 (Krizhevsky 2009): as CIFAR-10, with 100 fine classes."""
    return _read("CIFAR100", options)


def _read(name: str, options: DataOptions) -> Dataset:
    """The dataset that torchvision's class `name` reads."""
    import torchvision

    kind = getattr(torchvision.datasets, name)
    checksums = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    root = data_root(options)
    files = [f"{kind.base_folder}/{file}" for file in checksums]
    need_files(options.name, root, files, name)
    for file, checksum in checksums.items():
        path = root / kind.base_folder / file
        with readable(path, "the published file", "check the file"):
            found = md5_of(path)
        if found != checksum:
            raise DataError(
                f"{path}: must be the published file (md5 {checksum}), as it is a pickle and could "
                f"run any code, but its md5 is {found}; delete it, and it is fetched again"
            )

    def split(name: str, train: bool) -> tuple[Split, tuple[str, ...]]:
        with warnings.catch_warnings():
            # The pickles are of numpy 1; what newer versions say about that helps no user.
            warnings.simplefilter("ignore")
            part: Any = kind(root, train=train)
        images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
        labels = torch.tensor(part.targets, dtype=torch.int64)
        return Split(name, torch.from_numpy(images), labels), tuple(part.classes)

    train, class_names = split("train", True)
    test, _ = split("test", False)
    return Dataset.of_two(options.name, class_names, train, test)
