"""The handwritten digits that come with scikit-learn: 1797 images of 8 x 8, no file, no network."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import DIGITS, Dataset, Split
from kd_ray.datasets.selection import with_test_share

TEST_SHARE = 0.25
FILE = "datasets/data/digits.csv.gz"
"""Of the installed scikit-learn: 64 pixels and a label in each row."""


def read_digits(options: DataOptions) -> Dataset:
    """scikit-learn's digits (UCI, E. Alpaydin and C. Kaynak 1998), 0..16 scaled to 0..255.

    The set has no test split of its own; a fixed quarter of every class is.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    # Read from its file, as importing the package takes as long as importing torch.
    rows = np.loadtxt(Path(package.origin).parent / FILE, delimiter=",")
    pictures = rows[:, :-1].reshape(-1, 8, 8)
    images = torch.from_numpy(np.rint(pictures * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    return with_test_share(options.name, DIGITS, Split("train", images, labels), TEST_SHARE)
