"""A user's own pictures: one folder for each class, below train and test or directly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset
from kd_ray.datasets.labels import check_names
from kd_ray.datasets.listed import Listed, Lists, dataset_of
from kd_ray.datasets.storage import local_root, needed_root, readable
from kd_ray.errors import DataError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNLABELLED_FOLDER = "unlabelled"


def read_imagefolder(options: DataOptions) -> Dataset:
    """The pictures of `listed_imagefolder`, decoded."""
    with listed_imagefolder(options) as lists:
        return dataset_of(lists, options)


@contextmanager
def listed_imagefolder(options: DataOptions) -> Iterator[Lists]:
    """Pictures in `root/train/CLASS` and `root/test/CLASS`, or in `root/CLASS`.

    In the second layout a fixed fifth of every class becomes the test split. In both a folder
    `root/unlabelled` may hold pictures, at any depth, that are of the training split without a
    label. See `listed` for how pictures are read.

    Raises:
        ConfigError: no root is given.
        DataError: there are no pictures, one cannot be read, or the classes of the splits differ.
    """
    root = needed_root(local_root(options), options.name)
    if not root.is_dir():
        raise DataError(f"{root}: must be a folder of pictures, but is none; check data.root")
    if (root / "train").is_dir() != (root / "test").is_dir():
        raise DataError(
            f"{root}: must hold both train and test, or class folders and neither of them, but "
            "only one of the two is there; add the other, or name the folder of the classes"
        )
    test = None
    if (root / "train").is_dir():
        names, train = _listed(root / "train")
        test_names, test = _listed(root / "test")
        if odd := sorted(set(names) ^ set(test_names)):
            raise DataError(
                f"{root}: train and test must have the same class folders, but only one of them "
                f"has {', '.join(odd)}; add or remove these"
            )
    else:
        names, train = _listed(root, but=UNLABELLED_FOLDER)
    more = _pictures(root / UNLABELLED_FOLDER)
    train = Listed.of([train, Listed(more, [None] * len(more), more)])
    yield Lists(root, train, test, names)


def _listed(folder: Path, but: str = "") -> tuple[list[str], Listed]:
    """Class names, sorted, and the pictures of a folder, sorted by path; without one subfolder."""
    with readable(folder, "a folder", "make it readable"), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and entry.name != but)
    check_names(folder, names)
    found = [_pictures(folder / name) for name in names]
    if not names or not all(found):
        empty = [name for name, some in zip(names, found, strict=True) if not some]
        raise DataError(
            f"{folder}: must hold class folders with at least one picture in each "
            f"({', '.join(ENDINGS)}), but {f'{empty[0]} has none' if empty else 'has none'}; "
            "add pictures, or remove empty folders"
        )
    pictures = [path for some in found for path in some]
    labels = [number for number, some in enumerate(found) for _ in some]
    return names, Listed(pictures, labels, pictures)


def _pictures(folder: Path) -> list[Path]:
    """The pictures below a folder, by folder and then by name."""
    return [
        Path(place, name)
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(ENDINGS)
    ]
