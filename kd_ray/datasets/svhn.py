"""Street View House Numbers, cropped digits: two MATLAB files directly below the root."""

import warnings
from pathlib import Path

import numpy as np
import torch

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import DIGITS, Dataset, Split
from kd_ray.datasets.storage import data_root, md5_of, need_files, readable
from kd_ray.errors import DataError

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
OFFICIAL_MD5 = {  # as torchvision.datasets.SVHN has them; a test compares
    "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test": "eb5a983be6a315427106f1b164d9cef3",
}


def read_svhn(options: DataOptions) -> Dataset:
    """SVHN (Netzer et al. 2011): 73,257 + 26,032 colour digits, 32 x 32.

    Other files of the same format are read as well, with a warning: figures on them are not
    figures on SVHN.
    """
    root = data_root(options)
    splits = [{"split": split} for split in FILES]
    need_files(options.name, root, list(FILES.values()), "SVHN", splits)
    return Dataset.of_two(options.name, DIGITS, _read("train", root), _read("test", root))


def _read(split: str, root: Path) -> Split:
    import scipy.io

    path = root / FILES[split]
    with readable(path, "a MATLAB file", "fetch the file again"):
        official = md5_of(path) == OFFICIAL_MD5[split]
        content = scipy.io.loadmat(path, variable_names=["X", "y"])
    for variable in ("X", "y"):
        if not isinstance(content.get(variable), np.ndarray):
            raise DataError(
                f"{path}: must hold the arrays X and y, but {variable} is missing; "
                "fetch the file again"
            )
    images, labels = content["X"], content["y"].reshape(-1)
    rows = images.shape[-1] if images.ndim else 0
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, rows) or rows == 0:
        raise DataError(
            f"{path}: X must be uint8 of shape (32, 32, 3, N), but got {images.dtype} of shape "
            f"{images.shape}; fetch the file again"
        )
    if len(labels) != rows or not np.isin(labels, range(11)).all():
        raise DataError(
            f"{path}: y must be one label from 1 to 10 for each of the {rows} images, but got "
            f"{content['y'].dtype} of shape {content['y'].shape} with the values "
            f"{np.unique(labels)[:12].tolist()}; fetch the file again"
        )
    if not official:
        warnings.warn(
            f"{path} is not the official SVHN file (its md5 differs), so figures on it are not "
            "figures on SVHN",
            stacklevel=2,
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    return Split(split, pixels, torch.from_numpy(labels.astype(np.int64) % 10))  # 10 is digit 0
