"""The SQLite file of a study: on a disk as it is, of a store a local copy that is put back.

A database cannot be changed in place in an object store. Its copy lies in a local folder of this
process; consistent snapshots of it are committed to the store, each whole or not at all.
"""

import contextlib
import shutil
import sqlite3
import tempfile
import time
import weakref
from contextlib import closing
from pathlib import Path

from kd_ray.files import committed_file, is_stored, local_copy

PUT_EVERY_S = 1.0
"""Between two snapshots that can wait; a killed trial reports again what was not in the last."""


class StudyFile:
    """A study's file: the path where it belongs, and the local one that SQLite is to open."""

    def __init__(self, path: Path) -> None:
        """The file at `path`, or its place if there is none yet.

        Raises:
            StorageError: a store does not answer.
        """
        self.path = self.local = path
        self._put_at = time.monotonic()
        if not is_stored(path):
            return
        self._folder = Path(tempfile.mkdtemp(prefix="kd-ray-study-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.local = self._folder / path.name
        with contextlib.suppress(FileNotFoundError), local_copy(path) as copy:
            shutil.move(copy, self.local)

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
