"""What a packed dataset is: the plan that determines its shards, and the manifest of a whole one.

Two packings with equal plans write equal files. Nothing here reads or writes a picture.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from kd_ray.config.table import Count, Seed, Table
from kd_ray.errors import DataError
from kd_ray.files import read_json, reason_of

FORMAT_VERSION: Final = 1
MANIFEST = "packed.json"
PLAN_KEY = b"kd_ray.pack"
"""The key of a shard's metadata under which its plan is."""
SPLITS = ("train", "validation", "test")
MEND = "put back what was packed, or pack it anew"

Names = Annotated[tuple[str, ...], Field(strict=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Histogram = Annotated[
    tuple[Annotated[tuple[int, ...], Field(strict=False)], ...], Field(strict=False)
]


class PackPlan(Table):
    """Everything that determines the bytes of a packed dataset."""

    format_version: Literal[1] = FORMAT_VERSION
    """Raised when a reader of today could misread what is written."""

    dataset: str
    """Name of the dataset that was packed."""

    source_sha256: Sha256
    """Hash of what was packed: where its pictures are and their labels, or pixels and labels."""

    class_names: Annotated[Names, Field(min_length=1)]
    """K names; label k is the k-th."""

    rows: dict[str, int]
    """Rows of each split, with pictures that may be left out."""

    encoded: bool
    """Whether pictures are as files hold them, such as JPEG; else they are pixels."""

    image_shape: Annotated[tuple[int, int, int], Field(strict=False)]
    """`(C, H, W)` of a decoded and resized picture."""

    image_size: int | None
    """Side in pixels to which pictures are resized when they are decoded."""

    seed: Seed
    """Of the order of rows."""

    group_rows: Count
    """Rows of a row group, which is read at once."""

    shard_rows: Count
    """Rows of a file, some groups."""

    leave_out: bool
    """Whether pictures that do not decode are left out; else there are none."""

    @cached_property
    def json_text(self) -> str:
        """The plan as one line, the same for equal plans."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @property
    def image_bytes(self) -> int:
        """C * H * W: of a decoded picture."""
        channels, height, width = self.image_shape
        return channels * height * width

    def shards(self) -> "list[PackedShard]":
        """Every file, training rows first."""
        return [
            PackedShard(
                split=split, number=number, start=start, stop=min(start + self.shard_rows, rows)
            )
            for split, rows in self.rows.items()
            for number, start in enumerate(range(0, rows, self.shard_rows))
        ]


class PackedShard(Table):
    """One file: the rows `start` to `stop` of a split in its drawn order."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File name, such as train-00003.parquet, by which other readers know the split."""
        return f"{self.split}-{self.number:05d}.parquet"


class PackedFile(Table):
    """A shard that was written."""

    name: str
    split: str
    rows: int = Field(ge=0)
    """Those of its range, less what was left out."""

    bytes: Count
    sha256: Sha256


class PackManifest(Table):
    """What a whole packed dataset is."""

    plan: PackPlan
    files: Annotated[tuple[PackedFile, ...], Field(strict=False)]
    """In the order of `plan.shards()`."""

    histogram: Histogram
    """How often each of the 256 values is a pixel of the training rows, for each channel."""

    left_out: Names = ()
    """Pictures that do not decode: where they were."""

    created_with: dict[str, str]
    """Versions of the programs that wrote it."""

    @cached_property
    def sha256(self) -> str:
        """Of plan and files: the identity of the dataset."""
        content = self.model_dump(mode="json", include={"plan", "files"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def rows_of(self, split: str) -> int:
        """Rows of a split, without those left out."""
        return sum(file.rows for file in self.files if file.split == split)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def pixel_bytes(self) -> int:
        """Of all pictures when they are decoded."""
        return sum(file.rows for file in self.files) * self.plan.image_bytes


def read_pack_manifest(folder: Path) -> PackManifest:
    """The manifest of a packed dataset, whose files are there in the sizes that it says.

    Raises:
        DataError: packing has not finished, or something is not as it was written.
    """
    path = folder / MANIFEST
    try:
        values = read_json(path, dict[str, Any], DataError, MEND)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: must be a packed dataset, with a {MANIFEST}, but has none; correct "
            "data.root, or make it with kd-ray pack RECIPE --to FOLDER, which goes on where it was"
        ) from None
    stated = values.pop("sha256", None)
    try:
        manifest = PackManifest.model_validate(values)
    except ValidationError as error:
        raise DataError(
            f"{path}: must be as it was written, but {reason_of(error)}; {MEND}"
        ) from error
    expected = [shard.name for shard in manifest.plan.shards()]
    if stated != manifest.sha256 or expected != [file.name for file in manifest.files]:
        raise DataError(
            f"{path}: must be as it was written, but is not what its sha256 says; {MEND}"
        )
    for file in manifest.files:
        check_size(folder / file.name, file)
    return manifest


def check_size(path: Path, file: PackedFile) -> None:
    """Raises `DataError` where a shard is missing or has another size than it was written with."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DataError(
            f"{path}: must be there, as {MANIFEST} names it, but is missing; {MEND}"
        ) from None
    if found != file.bytes:
        state = "truncated" if found < file.bytes else "altered"
        raise DataError(
            f"{path}: must have {file.bytes:,} bytes, but has {found:,}: it was {state}; {MEND}"
        )
