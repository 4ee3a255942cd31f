"""Disks that fill up while rows are packed or labelled, and stores that stop answering."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_digits import data, pack_digits, recipe
from processes import wait_for
from tiny import perform, refused, tasks, tiny_file

from kd_ray.config import DataOptions
from kd_ray.datasets import PackedImages, open_dataset
from kd_ray.datasets.packed import groups, write
from kd_ray.datasets.packed.plan import MANIFEST
from kd_ray.errors import KdRayError, StorageError
from kd_ray.files import to_path
from kd_ray.files.store import reach, store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_digits(tmp_path_factory.mktemp("packed") / "digits")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedImages, "window_groups", 8)
    monkeypatch.setattr(write, "GROUP_BYTES", 1280)
    monkeypatch.setattr(write, "GROUPS_IN_SHARD", 5)


# A disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A file system of 8 MiB, and what leaves so many bytes free on it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")

    def leave(free_bytes: int) -> None:
        there = os.statvfs(place)
        size = (there.f_blocks - there.f_bfree) * there.f_frsize + free_bytes
        subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)

    yield place, leave
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def whole_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_a_packing_that_fills_a_disk_says_so_and_goes_on_when_there_is_room(
    digits: Path, disk: tuple[Path, Callable[[int], None]], tmp_path: Path
):
    place, leave = disk
    file, whole = tiny_file(tmp_path, "data.fraction=1.0"), whole_files(digits)
    leave(160 * 1024)
    line = refused("pack", file, "--to", place / "packed", at_once=False)
    assert "cannot be written (No space left on device); free some space or choose another" in line
    assert "--to" in line
    there = whole_files(place / "packed")
    assert 0 < len(there) < len(whole)
    assert there.items() <= whole.items()
    assert not (place / "packed" / MANIFEST).exists()
    with pytest.raises(KdRayError, match="goes on where it was"):
        open_dataset(DataOptions.model_validate(data(place / "packed", "stream")))
    leave(2**20)
    pack_digits(place / "packed")
    assert whole_files(place / "packed") == whole


def test_a_labelling_of_streamed_rows_that_fills_a_disk_goes_on_when_there_is_room(
    digits: Path, disk: tuple[Path, Callable[[int], None]], tmp_path: Path
):
    place, leave = disk
    teach, label, _ = tasks(recipe(digits, "stream"), place / "run")
    perform([teach])
    leave(60 * 1024)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); free"):
        perform([label])
    there = whole_files(label.folder)
    assert there
    assert not (label.folder / "manifest.json").exists()
    assert not list(label.folder.glob(".tmp-*"))
    leave(4 * 2**20)
    perform([label])
    teach_again, elsewhere, _ = tasks(recipe(digits, "stream"), tmp_path / "elsewhere")
    perform([teach_again, elsewhere])
    whole = whole_files(elsewhere.folder)
    assert there.items() < whole.items()
    assert whole_files(label.folder) == whole


# A store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """An S3-compatible server in a process of its own, with what leads to it in the environment."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if "Running on" in line)
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.split()[-1])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield process
    process.kill()
    process.wait()
    drain.join()
    process.stderr.close()
    reach.cache_clear()


@pytest.fixture
def stored(server: subprocess.Popen[str]) -> Path:
    """The digits, packed into it."""
    store("s3").call_s3("create_bucket", Bucket="bucket")
    return pack_digits(to_path(f"s3://bucket/{secrets.token_hex(4)}"))


def images(folder: Path) -> Any:
    return open_dataset(DataOptions.model_validate(data(folder, "stream"))).train.images


def pieces() -> Iterator[torch.Tensor]:
    yield from torch.arange(1200).split(40)


def test_a_store_that_is_silent_for_ten_seconds_is_waited_for(
    stored: Path, digits: Path, server: subprocess.Popen[str]
):
    resume = threading.Timer(10.0, server.send_signal, [signal.SIGCONT])
    found = []
    for number, some in enumerate(images(stored).follow(pieces())):
        if number == 3:
            server.send_signal(signal.SIGSTOP)
            resume.start()
        found.append(some)
    resume.join()
    assert torch.equal(torch.cat(found), images(digits)[torch.arange(1200)])


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_store_that_is_silent_for_good_is_named_in_one_sentence(
    stored: Path,
    server: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
):
    monkeypatch.setattr(groups, "WAITS_S", (0.5,))
    monkeypatch.setattr(groups, "PATIENCE_S", 5.0)
    monkeypatch.setattr(store("s3"), "retries", 1)  # its client would be silent for three minutes
    shown = images(stored).follow(pieces())
    next(shown)
    server.send_signal(number)
    if number == signal.SIGKILL:
        wait_for("the end of the server", lambda: server.poll() is not None)
    with pytest.raises(StorageError, match=r"s3://bucket/.*: the store does not answer as it") as e:
        list(shown)
    assert str(e.value).count("\n") == 0
