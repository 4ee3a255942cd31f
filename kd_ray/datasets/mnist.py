"""MNIST and Fashion-MNIST: four IDX files each, where torchvision puts them.

The files are read here and not by torchvision: its import takes seconds in every worker, and it
takes the header's word for the size. It is asked for the download only.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import DIGITS, Dataset, Split
from kd_ray.datasets.storage import data_root, need_files, readable
from kd_ray.errors import DataError

CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KINDS = ("images-idx3", "labels-idx1")
UNSIGNED_BYTES = 0x08  # the type that an IDX header names


def read_mnist(options: DataOptions) -> Dataset:
    """MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 handwritten digits, 28 x 28."""
    return _read("MNIST", DIGITS, options)


def read_fashion_mnist(options: DataOptions) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), laid out like MNIST."""
    return _read("FashionMNIST", CLOTHES, options)


def _read(folder: str, class_names: tuple[str, ...], options: DataOptions) -> Dataset:
    """The dataset in `root/folder/raw`; `folder` is also the name of torchvision's class."""
    root = data_root(options)
    files = [f"{folder}/raw/{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in KINDS]
    need_files(options.name, root, files, folder)

    def split(name: str, prefix: str) -> Split:
        image_file, label_file = (root / f"{folder}/raw/{prefix}-{kind}-ubyte" for kind in KINDS)
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise DataError(
                f"{label_file}: must have a label for each of the {len(images)} images of "
                f"{image_file.name}, but has {len(labels)}; fetch both files again"
            )
        if int(labels.max()) >= len(class_names):
            raise DataError(
                f"{label_file}: labels must be below {len(class_names)}, but got "
                f"{int(labels.max())}; fetch the file again"
            )
        return Split(name, images[:, None], labels.long())

    train, test = split("train", "train"), split("test", "t10k")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{root / folder}: training and test images must be of one size, but got "
            f"{tuple(train.images.shape[2:])} and {tuple(test.images.shape[2:])}; "
            "fetch the files again"
        )
    return Dataset.of_two(options.name, class_names, train, test)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """An IDX file of unsigned bytes: a big-endian header of type and sizes, then the values.

    Returns:
        uint8 with so many dimensions, none of them 0.

    Raises:
        DataError: the file is unreadable, or not exactly as long as its header says.
    """
    with readable(path, "an IDX file", "check the file"):
        content = np.fromfile(path, dtype=np.uint8)
    start = 4 + 4 * dimensions
    if content[:4].tolist() != [0, 0, UNSIGNED_BYTES, dimensions] or len(content) < start:
        raise DataError(
            f"{path}: must be an IDX file of bytes in {dimensions} dimension(s), but its "
            f"{len(content)} bytes do not begin like one; fetch the file again"
        )
    sizes = [int(size) for size in content[4:start].view(">u4")]
    expected = start + math.prod(sizes)
    if len(content) != expected or 0 in sizes:
        raise DataError(
            f"{path}: must have {expected} bytes for its sizes {sizes}, none of them 0, but has "
            f"{len(content)}; fetch the file again"
        )
    return torch.from_numpy(content[start:].reshape(sizes))
