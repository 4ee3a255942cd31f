"""The plan of a transfer set: everything that determines the bytes of its files.

Two runs with equal plans write equal files, so every shard carries the plan. Nothing here touches a
disk.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from torch import Tensor

from kd_ray.config.table import Count, Share, Table
from kd_ray.errors import TransferSetError

FORMAT_VERSION: Final = 1
SplitName: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Integers = TypeVar("Integers", Tensor, npt.NDArray[np.int64])
# Lists become tuples, so that a plan cannot change after it was hashed.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]


class TeacherIdentity(Table):
    """Which teacher a column of logits came from."""

    sha256: Sha256
    """Hash of the weights."""

    model: dict[str, Any]
    """Name of the catalogue entry and its options."""

    accuracy: Share
    """Share of the test split that it classifies rightly."""

    class_names: Names
    """What its K outputs mean."""


class SplitPlan(Table):
    """Which rows of one split of the dataset are labelled."""

    dataset_rows: int = Field(ge=0)
    """Images in this split of the dataset."""

    fingerprint: str
    """Hash of the content of this split: decoded images and labels."""

    rows: int = Field(ge=0)
    """N: images that are labelled."""

    index_sha256: Sha256
    """Hash of their row numbers, see `index_sha256`."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.rows > self.dataset_rows:
            raise ValueError(f"rows <= dataset_rows must hold, got {self.rows, self.dataset_rows}")
        return self


class Plan(Table):
    """Everything that determines the bytes of a transfer set."""

    format_version: Literal[1] = FORMAT_VERSION
    """Raised when a reader of today could misread what is written."""

    dataset: str
    """Name of the dataset."""

    dataset_fingerprint: str
    """Hash of the whole dataset as the recipe selects it."""

    class_names: Annotated[Names, Field(min_length=1)]
    """What the K logits mean, in order."""

    image_shape: Annotated[tuple[int, int, int], Field(strict=False)]
    """`(C, H, W)`."""

    mean: Numbers
    """Mean of the input pixels in [0, 1], one for each of the C channels."""

    std: Numbers
    """Standard deviation of the input pixels, as `mean`."""

    splits: dict[SplitName, SplitPlan]
    """All three; a split may have no rows."""

    teachers: Annotated[tuple[TeacherIdentity, ...], Field(strict=False, min_length=1)]
    """M members, in the order of the logits."""

    dtype: Literal["float16", "float32"]
    """Type of the stored logits."""

    views: Count
    """V: views of a training image; the other splits have view 0 only."""

    augment: dict[str, Any]
    """The table that describes the views after the first."""

    seed: int = Field(ge=0)
    """Seed of the views, and of the rows that are chosen or hidden."""

    unlabelled: Share
    """Share of the training images whose label is hidden."""

    include_images: bool
    """Whether the rows carry their pixels."""

    shard_rows: Count
    """Rows in one file; the last file of a split may have fewer."""

    compression: Literal["none", "zstd"]
    """Compression of the Parquet pages."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be {SPLITS}, but got {tuple(self.splits)}")
        channels = self.image_shape[0]
        if min(self.image_shape) < 1 or not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                "mean and std need one number for each channel, but got "
                f"image_shape = {self.image_shape}, mean = {self.mean}, std = {self.std}"
            )
        for member, teacher in enumerate(self.teachers):
            if teacher.class_names != self.class_names:
                difference = class_difference(teacher.class_names, self.class_names)
                raise TransferSetError(
                    f"transfer set: teacher and dataset must have the same classes in the same "
                    f"order, but of teacher {member} and the dataset {difference}; "
                    "train the teacher on these classes"
                )
        return self

    @cached_property
    def json_text(self) -> str:
        """The plan as canonical JSON: sorted keys, no spaces, no NaN."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def logits_shape(self) -> tuple[int, int]:
        """`(M, K)`."""
        return len(self.teachers), len(self.class_names)

    @property
    def image_bytes(self) -> int:
        """C * H * W: bytes of the pixels of one row, if rows carry them."""
        channels, height, width = self.image_shape
        return channels * height * width

    def views_of(self, split: SplitName) -> int:
        """V for the training split, else 1."""
        return self.views if split == "train" else 1

    def rows_of(self, split: SplitName) -> int:
        """Rows N * V of all files of a split."""
        return self.splits[split].rows * self.views_of(split)


def image_and_view(rows: Integers, views: int) -> tuple[Integers, Integers]:
    """Which labelled image, and which view of it, each row of a split is; views count fastest.

    Args:
        rows: numbers of rows in the split, `(n,)`, in any order.
        views: V of the split, see `Plan.views_of`.

    Returns:
        Numbers among the N labelled images (not in the dataset), and views, each `(n,)`.

    >>> image_and_view(np.array([3, 4, 5]), views=2)
    (array([1, 2, 2]), array([1, 0, 1]))
    """
    return rows // views, rows % views


def canonical_json(value: Any) -> str:
    """One text for one value, whatever the order of its keys.

    >>> canonical_json({"b": 1, "a": [1.0, None]})
    '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def index_sha256(index: npt.NDArray[np.int64]) -> str:
    """Hex sha256 of row numbers `(N,)`, as little-endian int64 on every machine."""
    return hashlib.sha256(np.ascontiguousarray(index, dtype="<i8").tobytes()).hexdigest()


def class_difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """The first place where two lists of classes part.

    >>> class_difference(("cat", "dog"), ("cat", "frog"))
    "class 1 is 'dog' here and 'frog' there"
    >>> class_difference(("cat", "dog"), ("cat",))
    "class 1 is 'dog' here and absent there"
    """
    for place in range(max(len(ours), len(theirs))):
        here, there = (
            repr(names[place]) if place < len(names) else "absent" for names in (ours, theirs)
        )
        if here != there:
            return f"class {place} is {here} here and {there} there"
    return "no class differs"


def plan_difference(stored: Any, wanted: Any, limit: int = 3) -> str:
    """The first keys in which two plans differ, with both values.

    Args:
        stored: the plan found in a file, as JSON values.
        wanted: the plan of this run, as JSON values.
        limit: keys to name.

    >>> plan_difference({"seed": 0, "views": 1}, {"seed": 0, "views": 4})
    'views is 1 there and 4 here'
    """
    there, here = dict(_leaves(stored)), dict(_leaves(wanted))
    keys = [key for key in here | there if here.get(key) != there.get(key)]
    named = [
        f"{key} is {_short(there, key)} there and {_short(here, key)} here" for key in keys[:limit]
    ]
    more = [f"and {len(keys) - limit} more"] if len(keys) > limit else []
    return ", ".join(named + more)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested JSON that is not itself nested."""
    if isinstance(value, dict | list) and value:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _short(leaves: dict[str, Any], key: str) -> str:
    if key not in leaves:
        return "absent"
    text = repr(leaves[key])
    return text if len(text) <= 70 else f"{text[:67]}..."  # a quoted sha256 has 66
