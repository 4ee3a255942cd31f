"""Object stores, opened with credentials from the environment alone; refusals of stores and disks.

The clients (s3fs, gcsfs) are extras and are imported when a URL is first used. What they know of
credentials stays in this process: no path, message or file has it.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kd_ray.errors import StorageError

EXTRAS = {"s3": "s3", "gs": "gcs"}
"""Scheme of a URL -> extra of this package that has its client."""

ENVIRONMENT = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CLIENTS = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs"}
REACH_S = 12.0
"""Seconds that a store has for its first answer: an error is better than an endless wait."""


def store(scheme: str) -> Any:
    """The fsspec filesystem of a scheme, for the environment as it is now.

    Raises:
        StorageError: its client is not installed.
    """
    names = sorted(name for name in os.environ if name.startswith(ENVIRONMENT))
    return _opened(scheme, tuple((name, os.environ[name]) for name in names), os.getpid())


@lru_cache(maxsize=8)
def _opened(scheme: str, environment: tuple[tuple[str, str], ...], process: int) -> Any:
    """A client is not to be used after a fork, nor with another environment than it was made in."""
    options: dict[str, Any] = {}
    if scheme == "s3":
        given, timeouts = dict(environment), {"connect_timeout": 3, "read_timeout": 15}
        named = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
        options = {"config_kwargs": {**timeouts, "retries": {"max_attempts": 2}}}
        options |= {"endpoint_url": named} if named else {}
    try:
        import fsspec

        # Other processes write, so a listing that is kept would soon be wrong.
        return fsspec.filesystem(
            scheme, use_listings_cache=False, skip_instance_cache=True, **options
        )
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise StorageError(
            f"{scheme}://: needs the extra {extra!r} of kd-ray on every machine that reads or "
            f"writes there; install it with: pip install 'kd-ray[{extra}]'"
        ) from error


@lru_cache(maxsize=64)
def reach(scheme: str, bucket: str, key: str) -> None:
    """Makes sure, once in a process, that a bucket is there and answers.

    Raises:
        StorageError: it does not.
    """
    where = f"{scheme}://{bucket}/{key}".rstrip("/")
    files = store(scheme)
    try:
        with answering(where):
            if scheme == "s3":
                prefix = f"{key}/" if key else ""
                files.call_s3(
                    "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1, timeout=REACH_S
                )
            else:
                files.info(bucket, timeout=REACH_S)
    except FileNotFoundError as error:
        raise StorageError(
            f"{where}: the bucket must be there before it is used, but {bucket!r} is not; make it, "
            "or correct the URL"
        ) from error


@contextmanager
def writing(path: object, option: str = "--runs") -> Iterator[None]:
    """Turns an operating-system error while writing `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        hint = f"make the folder writable, or choose another one with {option}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free some space or choose another folder with {option}, then run it again"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"{path}: cannot be written ({reason}); {hint}") from error


@contextmanager
def answering(where: object) -> Iterator[None]:
    """Turns a store's failure into a `StorageError`; that something is not there passes through."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        family = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and family not in CLIENTS:
            raise
        denied = isinstance(error, PermissionError) or "Credential" in type(error).__name__
        if denied:
            hint = "set credentials that may read and write there in the environment"
        else:
            hint = "check the network and, of a store of your own, AWS_ENDPOINT_URL"
        raise StorageError(
            f"{where}: the store does not answer as it should ({_reason(error)}); {hint}, then run "
            "the same again"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of a client's message, without anything secret that may be in it."""
    if isinstance(error, TimeoutError):
        return f"no answer within {REACH_S:.0f} s"
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    for name in SECRETS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "...")
    return re.sub(r"//[^/@\s]*@", "//", text)
