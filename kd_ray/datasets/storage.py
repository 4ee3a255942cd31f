"""Where the files of a dataset are, and how those that are missing get there.

A download goes to a folder of its own and is moved file by file when it is whole, so a broken one
leaves nothing that looks like data.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from kd_ray.config import DataOptions
from kd_ray.errors import ConfigError, DataError, KdRayError, StorageError
from kd_ray.files import is_stored, locked, sync, to_path

ENVIRONMENT_VARIABLE = "KD_RAY_DATA"
DRAFT = ".tmp-kd-ray-download"
SILENCE_S = 10.0  # a server that says nothing for so long is taken for dead
OTHER_PROCESS_S = 1800.0  # a process waits so long for another one's download

DOWNLOAD = """
import json, socket, sys
import torchvision
name, folder, silence_s, options = sys.argv[1:]
socket.setdefaulttimeout(float(silence_s))
for each in json.loads(options):
    getattr(torchvision.datasets, name)(folder, download=True, **each)
"""
"""A program for a process of its own: torchvision prints, and waits for silent servers for ever."""


def data_root(options: DataOptions) -> Path:
    """The folder of the datasets: `data.root`, else KD_RAY_DATA, else the user's cache.

    It is absolute, so that a process with another working directory finds the same files.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return local_root(options) or _absolute(cache) / "kd-ray"


def given_root(options: DataOptions) -> Path | None:
    """The folder, or its URL in a store, that the recipe or the environment names, if any."""
    given = options.root or os.environ.get(ENVIRONMENT_VARIABLE)
    return _absolute(given) if given else None


def local_root(options: DataOptions) -> Path | None:
    """The folder that is given, for datasets that are read from this machine alone."""
    root = given_root(options)
    if root is not None and is_stored(root):
        raise ConfigError(
            f"data.root: {options.name} must be in a folder of this machine, but got {root}; copy "
            "it here (parquet and csv are read from a store as well)"
        )
    return root


def needed_root(root: Path | None, name: str) -> Path:
    """The folder that was given, for datasets that are nowhere by default.

    Raises:
        ConfigError: none was.
    """
    if root is None:
        raise ConfigError(
            f"data.root: {name} needs the folder of the pictures, but got none; set data.root "
            f"or {ENVIRONMENT_VARIABLE}"
        )
    return root


def _absolute(text: str) -> Path:
    path = to_path(text)
    try:
        return path if is_stored(path) else path.expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"{text}: must begin with a known home, or be written out") from error


_downloads = ContextVar("downloads", default=True)


@contextlib.contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Files that are missing stay so in the block: a `DataError` says which."""
    before = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(before)


def need_files(
    name: str,
    root: Path,
    files: Sequence[str],
    kind: str,
    options: Sequence[Mapping[str, Any]] = ({},),
) -> None:
    """Makes sure that the files are there, by downloading those that are not.

    Args:
        name: name of the dataset.
        root: folder that `files` are relative to.
        files: relative paths.
        kind: name of torchvision's class that downloads them.
        options: arguments of that class; it is called once with each.

    Raises:
        DataError: a file is missing, and the download failed.
    """
    missing = _missing(root, files)
    if not missing:
        return
    if not _downloads.get():
        raise DataError(f"{name}: {root} has no {', '.join(missing)}")
    new_root = not os.path.exists(root)
    try:
        with locked(root / DRAFT, wait_s=OTHER_PROCESS_S):
            missing = _missing(root, files)  # another process may have fetched them meanwhile
            if missing:
                _download(root, missing, kind, options)
    except (OSError, StorageError) as error:
        missing = _missing(root, files) or list(files)
        raise DataError(
            f"{name}: {root} must hold {', '.join(missing)}, but not all of that is there and the "
            f"download failed ({error}); put the files there, or set data.root or "
            f"{ENVIRONMENT_VARIABLE} to the folder that has them"
        ) from error
    finally:
        shutil.rmtree(root / DRAFT, ignore_errors=True)
        if new_root:
            with contextlib.suppress(OSError):  # it stays if there is anything in it
                root.rmdir()


def _missing(root: Path, files: Sequence[str]) -> list[str]:
    return [file for file in files if not os.path.isfile(root / file)]


def _download(
    root: Path, files: Sequence[str], kind: str, options: Sequence[Mapping[str, Any]]
) -> None:
    # A new folder each time: a killed process may have left half a download, and a child.
    draft = Path(tempfile.mkdtemp(dir=root / DRAFT))
    command = [sys.executable, "-P", "-c", DOWNLOAD]
    command += [kind, str(draft), str(SILENCE_S), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        sync(draft / file)
        os.replace(draft / file, root / file)


@contextlib.contextmanager
def readable(path: object, kind: str, advice: str) -> Iterator[None]:
    """Turns whatever a reader of a file of this kind stumbles over into a `DataError`."""
    try:
        yield
    except KdRayError:
        raise
    except Exception as error:  # each decoder has its own way to fail
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: must be {kind}, but cannot be read ({reason}); {advice}"
        ) from error


def md5_of(path: Path) -> str:
    """Hex md5 of a file's bytes: the checksum that datasets publish, no protection."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest()
