"""A packed dataset as any other: labels are read at once, images when they are asked for."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.packed.groups import Groups
from kd_ray.datasets.packed.images import PackedImages
from kd_ray.datasets.packed.plan import SPLITS, PackManifest, read_pack_manifest
from kd_ray.datasets.storage import given_root, needed_root
from kd_ray.errors import DataError


def read_packed(options: DataOptions) -> Dataset:
    """The dataset in `data.root`, which `kd-ray pack` made; its images stay where they are.

    Raises:
        ConfigError: no root is given.
        DataError: it is not whole, or not as it was packed.
    """
    root = needed_root(given_root(options), options.name)
    manifest = read_pack_manifest(root)
    images = {
        split: PackedImages(
            Groups(root, manifest.plan, [file for file in manifest.files if file.split == split]),
            options.buffer_bytes,
            manifest.histogram,
        )
        for split in SPLITS
    }
    train, validation, test = (
        Split(split, some, _labels(some.groups, manifest), packed=some)
        for split, some in images.items()
    )
    return Dataset(options.name, manifest.plan.class_names, train, validation, test)


def _labels(groups: Groups, manifest: PackManifest) -> Tensor:
    """The labels of a split, `(N,)` int64, `UNLABELLED` where not known."""
    labels = np.empty(int(groups.starts[-1]), np.int64)
    with ThreadPoolExecutor(groups.readers) as pool:
        columns = pool.map(lambda group: groups.read(group, "label"), range(len(groups.places)))
        for start, column in zip(groups.starts, columns, strict=False):
            labels[start : start + len(column)] = column.fill_null(UNLABELLED)
    classes = len(manifest.plan.class_names)
    if len(labels) and not UNLABELLED <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{groups.folder}: labels must be from 0 to {classes - 1}, but others are there; pack "
            "it anew"
        )
    return torch.from_numpy(labels)
