"""A user's own pictures: one folder for each class, below train and test or directly."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.selection import with_test_share
from kd_ray.datasets.storage import ENVIRONMENT_VARIABLE, given_root, readable
from kd_ray.errors import ConfigError, DataError

TEST_SHARE = 0.2
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What may be decoded, whatever a file's name says: none is a program, as PostScript is."""


def read_imagefolder(options: DataOptions) -> Dataset:
    """Pictures in `root/train/CLASS` and `root/test/CLASS`, or in `root/CLASS`.

    In the second layout a fixed fifth of every class becomes the test split. Pictures are made RGB
    and square: the shorter side is resized to `data.image_size` (bilinear, antialiased) and the
    centre is kept.

    Raises:
        ConfigError: no root is given.
        DataError: there are no pictures, one cannot be read, or the classes of the splits differ.
    """
    root = given_root(options)
    if root is None or options.image_size is None:
        raise ConfigError(
            "data.root: imagefolder needs the folder of the pictures, but got none; set data.root "
            f"or {ENVIRONMENT_VARIABLE}"
        )
    if not root.is_dir():
        raise DataError(f"{root}: must be a folder of pictures, but is none; check data.root")
    if (root / "train").is_dir() != (root / "test").is_dir():
        raise DataError(
            f"{root}: must hold both train and test, or class folders and neither of them, but "
            "only one of the two is there; add the other, or name the folder of the classes"
        )
    if not (root / "train").is_dir():
        return _carved(root, options.name, options.image_size)
    class_names, train = _read("train", root / "train", options.image_size)
    test_names, test = _read("test", root / "test", options.image_size)
    if test_names != class_names:
        odd = sorted(set(class_names) ^ set(test_names))
        raise DataError(
            f"{root}: train and test must have the same class folders, but only one of them has "
            f"{', '.join(odd)}; add or remove these"
        )
    return Dataset.of_two(options.name, class_names, train, test)


def _carved(root: Path, name: str, size: int) -> Dataset:
    class_names, everything = _read("train", root, size)
    counts = torch.bincount(everything.labels)
    if int(counts.min()) < 2:
        raise DataError(
            f"{root / class_names[int(counts.argmin())]}: must hold at least two pictures, one to "
            "learn from and one to test on, but holds one; add pictures"
        )
    return with_test_share(name, class_names, everything, TEST_SHARE)


def _read(split: str, folder: Path, size: int) -> tuple[tuple[str, ...], Split]:
    """Class names, sorted, and the pictures of a folder, sorted by path."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(folder)
    except OSError as error:  # its FileNotFoundError names the classes without pictures
        raise DataError(
            f"{folder}: must hold class folders with at least one picture in each, but: {error}; "
            "add pictures, or remove empty folders"
        ) from error
    for name in found.classes:
        if not name.isprintable():  # as a byte that is not UTF-8
            raise DataError(
                f"{folder}: names of class folders must be printable UTF-8, but got {name!a}; "
                "rename it"
            )
    pixels = np.empty((len(found.samples), 3, size, size), np.uint8)

    def decode(row: int) -> None:
        pixels[row] = read_picture(Path(found.samples[row][0]), size).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter lock
        for _ in pool.map(decode, range(len(pixels))):
            pass
    labels = torch.tensor(found.targets, dtype=torch.int64)
    return tuple(found.classes), Split(split, torch.from_numpy(pixels), labels)


def read_picture(path: Path, size: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """A picture as `(size, size, 3)` uint8: upright, RGB, shorter side resized, centre kept.

    Grey of 16 bits is scaled to 8, and what is transparent is white, as viewers show it.

    Raises:
        DataError: it cannot be decoded, or nothing says which of its numbers is white.
    """
    from PIL import Image, ImageOps

    with readable(path, "a picture", "replace or remove it"):
        if not path.is_file():
            raise ValueError("it is no regular file")  # opening a pipe would wait for ever
        with Image.open(path, formats=FORMATS) as picture:
            tags = getattr(picture, "tag_v2", {})  # of a TIFF: bits, and whether black is 0
            deep = picture.mode.startswith("I;16") and tags.get(258, (16,)) == (16,)
            deep = (deep and tags.get(262) != 0) or (picture.mode, picture.format) == ("I", "PPM")
            if picture.mode[0] in "IF" and not deep:
                raise ValueError("its pixels are neither of 8 bits nor of 16 with black as 0")
            upright = ImageOps.exif_transpose(picture)
            if deep:
                grey = (np.asarray(upright).astype(np.int64) + 128) // 257  # 65535 is 255
                upright = Image.fromarray(grey.astype(np.uint8))
            elif upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
        return np.asarray(square)
