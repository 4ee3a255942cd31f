"""`[data]`: which images or recordings, where they are, and how they are split."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from kd_ray.config.table import EachOnce, Seed, Table
from kd_ray.own_code import is_dotted

TABLES = ("parquet", "csv")
"""Datasets that are files of rows."""
PACKED = "packed"
"""Data that kd-ray pack has made."""
WHERE = ("root", "hold", "buffer_bytes")
"""Keys that say where rows are, and not which."""
SPOKEN = ("spoken-digits",)
"""Datasets of recordings."""


Hold: TypeAlias = Literal["auto", "device", "host", "stream"]


class ColumnNames(Table):
    """`[data.columns]`: which columns of Parquet and CSV files are meant."""

    image: str = "image"
    """Pictures as files hold them, or paths below the folder of the table."""

    label: str = "label"
    """Numbers or names of classes; null, an empty text or -1 where the label is not known."""

    split: str = "split"
    """Which split a row is of: train, test, validation or unlabelled; needed where it is named."""


class Speakers(Table):
    """`[data.speakers]`: whose recordings are kept from training."""

    validation: Annotated[list[str] | None, Field(min_length=1), EachOnce] = None
    """Speakers whose recordings, test rows aside, are the validation rows."""

    test: Annotated[list[str] | None, Field(min_length=1), EachOnce] = None
    """Speakers whose recordings are the test rows, instead of the dataset's own test rows."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if both := set(self.validation or []) & set(self.test or []):
            raise ValueError(
                f"validation and test must be different speakers, but got {sorted(both)} in both; "
                "leave them out of one"
            )
        return self


class DataOptions(Table):
    """`[data]`: which images or recordings, and how they are split."""

    name: str = Field(max_length=100)
    """A key of the dataset catalogue, such as digits, mnist, svhn, imagefolder, parquet, csv or
    packed, or a function of your own, such as my_data:load."""

    root: str | None = None
    """Folder of the files, for parquet and csv also one file, for these and packed also a URL such
    as s3://bucket/pictures; else the environment variable KD_RAY_DATA, else the user's cache."""

    validation: int = Field(default=0, ge=0)
    """Rows carved from the training split for choosing among epochs; 0 for none. Of recordings
    whole ones are carved, until they have so many frames."""

    seed: Seed = 0
    """Chooses the rows that are carved or sampled."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows to keep, the same for every class."""

    labelled: float = Field(default=1.0, gt=0, le=1)
    """Share of them whose labels are known, the same for every class: teachers learn from these
    rows alone; the others are in transfer sets without a label."""

    classes: Annotated[list[str] | None, Field(min_length=2), EachOnce] = None
    """Keep only these classes, by name, in every split; K becomes their number."""

    standardize: bool = True
    """Feed models pixels of mean 0 and deviation 1 in each channel; else from 0 (black) to 1."""

    image_size: int | None = Field(default=None, ge=4, le=1024)
    """Side in pixels to which pictures are resized, of imagefolder, parquet, csv and functions of
    your own; none where all of them have one size already."""

    hold: Hold = "auto"
    """Where the rows are while models learn from them: on the device, in the host's memory, or
    streamed, which is for packed; auto streams what takes more than a quarter of the machine's
    memory, and keeps on the device what takes no more than half of its."""

    buffer_bytes: int = Field(default=2**29, ge=2**20)
    """Memory for streamed rows in each process: those that are shuffled together take 3/8 of it, as
    much is read ahead, and the rest is for images decoded ahead."""

    columns: ColumnNames | None = None
    """Columns of parquet and csv, where they are others than image, label and split."""

    speakers: Speakers | None = None
    """Speakers who are kept for validation or test, of spoken-digits."""

    options: dict[str, Any] | None = None
    """Arguments of a function of your own, checked against its signature."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        own, tables = is_dotted(self.name), self.name in TABLES
        goes_with = {
            "root": (not own, "data that kd-ray reads itself"),
            "image_size": (
                own or tables or self.name == "imagefolder",
                f"imagefolder, {', '.join(TABLES)} and functions of your own",
            ),
            "columns": (tables, " and ".join(TABLES)),
            "classes": (self.name not in SPOKEN, "pictures, as those of recordings are states"),
            "speakers": (self.name in SPOKEN, " and ".join(SPOKEN)),
            "options": (own, "a function of your own, such as my_data:load"),
        }
        for key, (fits, what) in goes_with.items():
            if not fits and getattr(self, key) is not None:
                raise ValueError(
                    f"the key {key} is for {what}, but got it beside name = {self.name!r}; "
                    "leave it out"
                )
        if self.hold == "stream" and self.name != PACKED:
            raise ValueError(
                f"hold = 'stream' is for data that is packed, but got name = {self.name!r}; make "
                f"that with kd-ray pack, and set name = {PACKED!r}"
            )
        if self.validation and self.speakers and self.speakers.validation:
            raise ValueError(
                f"validation = {self.validation} carves rows, but speakers.validation = "
                f"{self.speakers.validation} has them already; leave one of the two out"
            )
        return self

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to choose by that nobody learns from."""
        return bool(self.validation or (self.speakers and self.speakers.validation))
