"""Row groups of a packed split, each read at once and checked, here or from an object store."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet as pq

from kd_ray.datasets.packed.plan import MEND, PLAN_KEY, PackedFile, PackPlan, check_size
from kd_ray.errors import DataError, StorageError
from kd_ray.files import is_stored, opened_to_read

WAITS_S = (1.0, 4.0, 16.0)
"""Seconds from one try to the next where a store does not answer."""
PATIENCE_S = 60.0
"""Seconds after which it is not asked again: its client asks as well, so silence takes minutes."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The row groups of one split, in order.

    A file is opened anew for each group, so that one that was replaced meanwhile does not go
    unseen; every page has a checksum.

    Attributes:
        folder: of the dataset.
        plan: of the dataset.
        files: of the split, in order.
    """

    folder: Path
    plan: PackPlan
    files: Sequence[PackedFile]
    _footers: dict[str, pq.FileMetaData] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> "tuple[type[Groups], tuple[Path, PackPlan, Sequence[PackedFile]]]":
        """What was read of the files stays behind where it is sent to another process."""
        return Groups, (self.folder, self.plan, self.files)

    @cached_property
    def sha256(self) -> str:
        """Of the split's files and how they are decoded."""
        known = [self.plan.json_text, *(file.sha256 for file in self.files)]
        return hashlib.sha256("\n".join(known).encode()).hexdigest()

    @cached_property
    def places(self) -> list[tuple[PackedFile, int]]:
        """File, and number in it, of each of the G groups."""
        size = self.plan.group_rows
        return [(file, n) for file in self.files for n in range(-(-file.rows // size))]

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first row of each group, and behind them the number of rows: `(G + 1,)`."""
        size = self.plan.group_rows
        rows = [min(size, file.rows - n * size) for file, n in self.places]
        return np.cumsum([0, *rows])

    @cached_property
    def largest_bytes(self) -> int:
        """Bytes of a group at most, nearly: those of a file are spread evenly over its rows."""
        size = self.plan.group_rows
        return max((f.bytes * min(size, f.rows) // f.rows for f in self.files if f.rows), default=1)

    @property
    def readers(self) -> int:
        """How many groups are read at once: a disk is as fast for one, a store is not."""
        return 8 if is_stored(self.folder) else 1

    def read(self, group: int, column: str = "image") -> pa.Array:
        """A column of a group, `(n,)`.

        Raises:
            DataError: its file is missing or is not as it was packed.
            StorageError: a store does not answer, however often it is asked.
        """
        file, number = self.places[group]
        began = time.monotonic()
        for wait_s in WAITS_S:
            try:
                return self._read(file, number, column)
            except StorageError:
                if time.monotonic() > began + PATIENCE_S:
                    raise
                time.sleep(wait_s)
        return self._read(file, number, column)

    def _read(self, file: PackedFile, number: int, column: str) -> pa.Array:
        path = self.folder / file.name
        try:
            with opened_to_read(path, file.bytes) as handle:
                try:
                    table = self._opened(path, file, handle).read_row_group(
                        number, [column], use_threads=False
                    )
                except (pa.ArrowException, OSError) as error:
                    if getattr(error, "errno", None) is not None:
                        raise
                    check_size(path, file)
                    raise DataError(
                        f"{path}, row group {number}: must be as it was packed, but cannot be read "
                        f"({' '.join(str(error).split())}); {MEND}"
                    ) from error
            return table.column(0).combine_chunks()
        except FileNotFoundError:
            check_size(path, file)
            raise

    def _opened(self, path: Path, file: PackedFile, handle: object) -> pq.ParquetFile:
        """A file of which the end, which says where groups are, is read once."""
        opened = pq.ParquetFile(
            handle,
            metadata=self._footers.get(file.name),
            page_checksum_verification=True,
            pre_buffer=False,
        )
        if file.name not in self._footers:
            plan = (opened.schema_arrow.metadata or {}).get(PLAN_KEY, b"").decode()
            if plan != self.plan.json_text or opened.metadata.num_rows != file.rows:
                raise DataError(
                    f"{path}: must be of this packed dataset, but is another file; {MEND}"
                )
            self._footers[file.name] = opened.metadata
        return opened
