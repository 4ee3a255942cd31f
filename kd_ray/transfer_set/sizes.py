"""How large a transfer set will be, and what labelling will take: arithmetic before the work."""

from dataclasses import dataclass
from typing import Final

from kd_ray.transfer_set.fit_basis import SHARES

DTYPES: Final = ("float16", "float32", *SHARES)
KEY_BYTES = 3
"""Index, view and label of a row, encoded as differences."""
FILE_BYTES = 4000
"""A file's schema, plan and statistics, without the names of the classes."""


def row_bytes(dtype: str, classes: int, members: int = 1, image_bytes: int = 0) -> int:
    """Bytes of a row on disk; of compact logits at most.

    >>> [row_bytes(dtype, classes=1000) for dtype in DTYPES]
    [2003, 4003, 503, 203]
    """
    of_one = 2 * classes // SHARES.get(dtype, 1) * (2 if dtype == "float32" else 1)
    return KEY_BYTES + members * of_one + image_bytes


def set_bytes(
    dtype: str, rows: int, classes: int, members: int = 1, image_bytes: int = 0, files: int = 0
) -> int:
    """Bytes of all rows and files, without the basis of compact logits."""
    return rows * row_bytes(dtype, classes, members, image_bytes) + files * FILE_BYTES


@dataclass(frozen=True)
class Labelling:
    """Labelling by many GPUs: rows are decoded, changed to views and run through the teachers.

    Attributes:
        images: of the training split.
        classes: K.
        views: V.
        dtype: of the stored logits.
        gpus: that label.
        teacher_images_per_s: of one GPU.
        decoded_per_s: pictures that one CPU core decodes, resizes and changes.
        picture_bytes: of an encoded picture.
    """

    images: int
    classes: int
    views: int
    dtype: str
    gpus: int
    teacher_images_per_s: float = 2500.0
    decoded_per_s: float = 150.0
    picture_bytes: int = 110_000

    @property
    def rows(self) -> int:
        """N * V."""
        return self.images * self.views

    @property
    def bytes(self) -> int:
        """Of the set."""
        return set_bytes(self.dtype, self.rows, self.classes)

    @property
    def gpu_hours(self) -> float:
        """Of all GPUs together."""
        return self.rows / self.teacher_images_per_s / 3600

    @property
    def hours(self) -> float:
        """From the beginning to the end, where nothing but the GPUs is waited for."""
        return self.gpu_hours / self.gpus

    @property
    def cores_per_gpu(self) -> float:
        """CPU cores that keep a GPU busy, where a picture is decoded for each of its views."""
        return self.teacher_images_per_s / self.decoded_per_s

    @property
    def read_bytes_per_s(self) -> float:
        """Of encoded pictures, by all GPUs together."""
        return self.gpus * self.teacher_images_per_s * self.picture_bytes

    @property
    def written_bytes_per_s(self) -> float:
        """Of logits, by all GPUs together."""
        return self.gpus * self.teacher_images_per_s * row_bytes(self.dtype, self.classes)
