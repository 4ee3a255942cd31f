"""What is packed: the rows of a dataset, and their pictures as they are, any of them at any time.

Pictures of folders stay there, those of tables lie in a scratch file as long as they are packed, so
that neither is in memory.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_ray.config import DataOptions
from kd_ray.datasets import LISTED, Dataset, Split, open_dataset
from kd_ray.datasets.labels import Label
from kd_ray.datasets.listed import Listed, Lists, with_pixels
from kd_ray.datasets.packed.plan import SPLITS
from kd_ray.datasets.picture import decoded_picture
from kd_ray.datasets.selection import select
from kd_ray.errors import DataError
from kd_ray.files import scratch_folder, writing

if TYPE_CHECKING:
    from PIL import Image

SAMPLED = 1024
"""Pictures whose bytes say how many one has."""


@dataclass(frozen=True)
class Pictures:
    """Pictures as files hold them, each by its number.

    Attributes:
        root: what places begin with, if they do.
        places: what messages call each.
        paths: those that are files of their own.
        spool: the file that has the others, one after the other.
        ends: where each ends in it, and 0 before the first: `(n + 1,)`.
    """

    root: str
    places: Sequence[object]
    paths: Mapping[int, Path]
    spool: int
    ends: npt.NDArray[np.int64]

    def read(self, number: int) -> bytes:
        """The bytes of one."""
        if number in self.paths:
            return self.paths[number].read_bytes()
        start, stop = self.ends[number : number + 2].tolist()
        return os.pread(self.spool, stop - start, start)

    def decoded(self, number: int, size: int | None) -> "tuple[bytes, Image.Image]":
        """The bytes of one, and what they decode to.

        Raises:
            DataError: it does not decode.
        """
        place = self.places[number]
        try:
            content = self.read(number)
            return content, decoded_picture(content, size, place)
        except (DataError, OSError) as error:
            reason = f"{place}: cannot be read ({error})" if isinstance(error, OSError) else error
            raise DataError(f"{reason}, or have such pictures left out (--leave-out)") from error

    def size(self, number: int) -> int:
        """How many bytes it has."""
        if number in self.paths:
            return self.paths[number].stat().st_size
        return int(self.ends[number + 1] - self.ends[number])

    def relative(self, number: int) -> str:
        """The name of one, wherever the whole lies."""
        return str(self.places[number]).removeprefix(self.root)


@dataclass(frozen=True)
class PackSource:
    """A dataset to be packed.

    Attributes:
        name: of the dataset.
        class_names: K names.
        splits: the rows of each split: images are pixels, or the numbers of pictures.
        pictures: None where images are pixels.
        sha256: of the names of pictures and their labels, or of pixels and labels.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    pictures: Pictures | None
    sha256: str

    def images(self, split: str, rows: Tensor) -> Tensor:
        """Pixels of some rows of a split, or the numbers of their pictures."""
        return self.splits[split].images[rows]

    @property
    def row_bytes(self) -> int:
        """Bytes of a picture: of each, or of some on average."""
        train = self.splits["train"]
        if self.pictures is None:
            return int(np.prod(train.images.shape[1:]))
        some = self.images("train", torch.arange(0, train.rows, max(1, train.rows // SAMPLED)))
        return max(1, sum(map(self.pictures.size, some.tolist())) // len(some))

    def image_shape(self, size: int | None, leave_out: bool) -> tuple[int, int, int]:
        """`(C, H, W)` of the first picture that decodes."""
        train = self.splits["train"]
        if self.pictures is None:
            channels, height, width = train.images.shape[1:]
            return channels, height, width
        for number in self.images("train", torch.arange(train.rows)).tolist():
            try:
                return picture_shape(self.pictures.decoded(number, size)[1])
            except DataError:
                if not leave_out:
                    raise
        raise DataError(f"{self.name}: no picture of the training split decodes; correct them")


def picture_shape(picture: "Image.Image") -> tuple[int, int, int]:
    """`(C, H, W)` of a decoded picture."""
    return len(picture.getbands()), picture.height, picture.width


@contextmanager
def opened_source(options: DataOptions, scratch: Path) -> Iterator[PackSource]:
    """A dataset to be packed, with the classes and the fraction that `[data]` asks for.

    Validation rows and hidden labels are left to who reads it.

    Args:
        options: `[data]`.
        scratch: where a folder for what is thrown away may be.
    """
    options = options.model_copy(update={"validation": 0, "labelled": 1.0})
    if options.name not in LISTED:
        dataset = open_dataset(options)
        if dataset.train.packed is not None or dataset.train.images.dtype != torch.uint8:
            what = "packed already" if dataset.train.packed else "frames of recordings"
            raise DataError(
                f"{options.name}: must be pictures to be packed, but is {what}; name another "
                "dataset in the recipe"
            )
        splits, sha256 = _splits(dataset), dataset.fingerprint
        yield PackSource(dataset.name, dataset.class_names, splits, None, sha256)
        return
    with LISTED[options.name](options) as lists, scratch_folder(scratch, "pack") as folder:
        labels = lists.numbered()
        parts = [part for part in (lists.train, lists.test) if part is not None]
        names = [label for part in parts for label in part.labels]
        numbers = torch.arange(len(names))
        dataset = select(with_pixels(options.name, labels, numbers), options)
        splits, wanted = _splits(dataset), np.zeros(len(names), bool)
        for split in splits.values():
            wanted[split.images[torch.arange(split.rows)].numpy()] = True
        with _spooled(lists, parts, wanted, folder / "pictures") as pictures:
            sha256 = _sha256(options, pictures, names)
            yield PackSource(options.name, dataset.class_names, splits, pictures, sha256)


def _splits(dataset: Dataset) -> dict[str, Split]:
    return {split: getattr(dataset, split) for split in SPLITS}


@contextmanager
def _spooled(
    lists: Lists, parts: Sequence[Listed], wanted: npt.NDArray[np.bool_], path: Path
) -> Iterator[Pictures]:
    """Pictures at hand; those that are no files are copied to a file, one after the other."""
    ends, paths = np.zeros(len(wanted) + 1, np.int64), dict[int, Path]()
    pictures = chain.from_iterable(part.pictures for part in parts)
    with path.open("w+b") as spool:
        with writing(path.parent.parent, "--to"):
            for number, picture in enumerate(pictures):
                if isinstance(picture, Path):
                    paths[number] = picture
                elif isinstance(picture, bytes) and wanted[number]:
                    spool.write(picture)
                ends[number + 1] = spool.tell()
            spool.flush()
        places = [place for part in parts for place in part.places]
        yield Pictures(f"{lists.where}/", places, paths, spool.fileno(), ends)


def _sha256(options: DataOptions, pictures: Pictures, labels: Sequence[Label]) -> str:
    """Of the names of pictures, of their labels, and of how rows are chosen."""
    chosen = options.model_dump_json(include={"classes", "fraction", "seed", "image_size"})
    digest = hashlib.sha256(chosen.encode())
    for number, label in enumerate(labels):
        digest.update(f"{pictures.relative(number)}\0{label}\n".encode())
    return digest.hexdigest()
