"""The handwritten digits that come with scikit-learn: 1797 images of 8 x 8, no file, no network."""

import numpy as np
import torch

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import DIGITS, Dataset, Split
from kd_ray.datasets.selection import with_test_share

TEST_SHARE = 0.25


def read_digits(options: DataOptions) -> Dataset:
    """scikit-learn's digits (UCI, E. Alpaydin and C. Kaynak 1998), 0..16 scaled to 0..255.

    The set has no test split of its own; a fixed quarter of every class is.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return with_test_share(options.name, DIGITS, Split("train", images, labels), TEST_SHARE)
