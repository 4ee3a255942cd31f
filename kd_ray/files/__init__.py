"""Files that are either whole or not there, on a disk and in an object store.

A place is a path: a local one, or one below a URL such as s3://bucket/runs. Both are read through
the methods of `pathlib.Path` and written through the commits here; nothing above asks which it is.
"""

from kd_ray.files.commit import (
    TEMPORARY,
    committed_file,
    committed_folder,
    local_copies,
    local_copy,
    remove_drafts,
    remove_folder,
    scratch_folder,
    sha256_of,
    sync,
    write_json,
)
from kd_ray.files.lock import locked
from kd_ray.files.paths import checked_path, is_stored, opened_to_read, to_path
from kd_ray.files.reading import bounded_bytes, check_regular, read_json, reason_of, ruled
from kd_ray.files.store import writing
