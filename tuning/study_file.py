"""The SQLite file of a study: on a disk as it is, of a store a local copy that is put back.

A database cannot be changed in place in an object store. Its copy lies in a local folder of this
process; consistent snapshots of it are committed to the store, each whole or not at all.
"""

import contextlib
import shutil
import sqlite3
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kd_ray.errors import KdRayError, StorageError
from kd_ray.files import committed_file, is_stored, local_copy

BUSY_S = 30.0
"""To wait for another process that has the database."""
PUT_EVERY_S = 1.0
"""Between two snapshots that can wait; a killed trial reports again what was not in the last."""


class StudyFile:
    """A study's file: the path where it belongs, and the local one that SQLite is to open."""

    def __init__(self, path: Path) -> None:
        """The file at `path`, or its place if there is none yet.

        Raises:
            StorageError: it is damaged, or a store does not answer.
        """
        self.path = self.local = path
        self._put_at = time.monotonic()
        if is_stored(path):
            folder = tempfile.mkdtemp(prefix="kd-ray-study-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.local = Path(folder, path.name)
            with contextlib.suppress(FileNotFoundError), local_copy(path) as copy:
                shutil.move(copy, self.local)
        if self.local.exists():
            with answering(path), closing(sqlite3.connect(self.local, BUSY_S)) as database:
                (said,) = database.execute("PRAGMA integrity_check(1)").fetchone()
                if said != "ok":
                    raise sqlite3.DatabaseError(said)

    def put(self, *, can_wait: bool = False) -> None:
        """Commits what is in the database by now to the store; nothing is to be done on a disk.

        What can wait is left to a later call if the last was only just now.

        Raises:
            StorageError: the store does not take it.
        """
        is_early = can_wait and time.monotonic() - self._put_at < PUT_EVERY_S
        if self.local == self.path or is_early:
            return
        with (
            committed_file(self.path) as draft,
            closing(sqlite3.connect(self.local)) as ours,
            closing(sqlite3.connect(draft)) as snapshot,
        ):
            ours.backup(snapshot)
        self._put_at = time.monotonic()

    def keep_for(self, study: object) -> None:
        """Lets a local copy live as long as the study that reads it."""
        weakref.finalize(study, lambda kept: None, self)


@contextlib.contextmanager
def answering(path: Path, *failures: type[Exception]) -> Iterator[None]:
    """Turns a failure of a study's database into a `StorageError`.

    A damaged one that is read for the first time ends in any failure of Optuna's. Its notes on
    parts that may change, and on epochs that are reported again, are left out.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    expected: tuple[type[Exception], ...] = (sqlite3.Error, StorageInternalError, SQLAlchemyError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except KdRayError:
        raise
    except (*expected, *failures) as error:
        reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise StorageError(
            f"{path}: the sweep's study must be a readable and writable SQLite file, but "
            f"{reason[0]}; free some space, or put a copy in place of a damaged file or remove it "
            "to begin anew, then run the same again"
        ) from error
