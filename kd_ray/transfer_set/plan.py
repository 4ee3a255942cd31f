"""The plan of a transfer set: everything that determines the bytes of its files.

Two runs with equal plans write equal files, so every shard carries the plan, and each is a pure
function of its range of rows. Nothing here touches a disk.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from kd_ray.config.table import Count, Share, Table
from kd_ray.errors import TransferSetError, difference, numbered

FORMAT_VERSION: Final = 1
SplitName: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
IMPORTED: Final = "imported"
"""Name of a teacher's model where logits came from elsewhere, and nothing else is known of it."""

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

    accuracy: Share | None
    """Share of the test split that it classifies rightly; None where that is not known."""

    class_names: Names
    """What its K outputs mean."""

    @property
    def is_imported(self) -> bool:
        """Whether its logits came from elsewhere: the hash is theirs, and it cannot be run."""
        return self.model.get("name") == IMPORTED

    @property
    def origin(self) -> str:
        """What it is, in a few words."""
        if not self.is_imported:
            return str(self.model["name"])
        return f"imported from {self.model.get('file', 'arrays')}"


class CodeIdentity(Table):
    """What codes the logits of a compact set."""

    sha256: Sha256
    """Hash of the file of the basis, which lies beside the shards."""

    bytes: Count
    """Size of that file."""

    row_bytes: Count
    """Bytes of the code of one row."""


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

    dtype: Literal["float16", "float32", "compact", "compact-tenth"]
    """Type of the stored logits."""

    code: CodeIdentity | None = None
    """Of compact logits, once there is a basis for them."""

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
        if self.code is not None and not self.is_compact:
            raise ValueError(f"code goes with compact logits, but got dtype = {self.dtype}")
        for member, teacher in enumerate(self.teachers):
            if teacher.class_names != self.class_names:
                theirs, ours = (numbered("class", x.class_names) for x in (teacher, self))
                raise TransferSetError(
                    "transfer set: teacher and dataset must have the same classes in the same "
                    f"order, but {difference(theirs, ours)} (there teacher {member}, here the "
                    "dataset); train the teacher on these classes"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plans of dense logits are what they were before there were others: so are identities.
        table: dict[str, Any] = handler(self)
        return {key: value for key, value in table.items() if (key, value) != ("code", None)}

    @cached_property
    def json_text(self) -> str:
        """The plan as canonical JSON: sorted keys, no spaces, no NaN."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def is_compact(self) -> bool:
        """Whether logits are stored as codes in a basis."""
        return self.dtype.startswith("compact")

    @property
    def logits_shape(self) -> tuple[int, int]:
        """`(M, K)`."""
        return len(self.teachers), len(self.class_names)

    @property
    def image_bytes(self) -> int:
        """C * H * W: bytes of the pixels of one row, if rows carry them."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def needs_dataset(self) -> bool:
        """Whether students need the dataset: for all pixels, or for a split without logits."""
        bare = any(split.dataset_rows and not split.rows for split in self.splits.values())
        return bare or not self.include_images

    def views_of(self, split: SplitName) -> int:
        """V for the training split, else 1."""
        return self.views if split == "train" else 1

    def rows_of(self, split: SplitName) -> int:
        """Rows N * V of all files of a split."""
        return self.splits[split].rows * self.views_of(split)


@dataclass(frozen=True)
class Shard:
    """One file: rows `start` to `stop` of a split, counted over (index, view), view fastest."""

    split: SplitName
    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """File name, such as train-00003.parquet."""
        return f"{self.split}-{self.number:05d}.parquet"


def shards(plan: Plan) -> list[Shard]:
    """Every file of the set; a split without rows has none."""
    return [
        Shard(split, number, start, min(start + plan.shard_rows, plan.rows_of(split)))
        for split in SPLITS
        for number, start in enumerate(range(0, plan.rows_of(split), plan.shard_rows))
    ]


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
    return hashlib.sha256(np.ascontiguousarray(index, dtype="<i8").data).hexdigest()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested JSON that is not itself nested."""
    if isinstance(value, dict | list) and value:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
