import errno
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import holding
from tiny import tiny_dataset, tiny_meta

from kd_ray.errors import StorageError
from kd_ray.files import (
    TEMPORARY,
    committed_file,
    committed_folder,
    locked,
    remove_drafts,
    remove_folder,
    scratch_folder,
    sha256_of,
    write_json,
)
from kd_ray.files.store import writing
from kd_ray.training.checkpoint import save
from kd_ray.training.progress import Training


class Interrupted(Exception):
    """Stands for whatever ends a block half-way."""


def write_half_a_file(path: Path) -> None:
    with committed_file(path) as draft:
        draft.write_text("half")
        raise Interrupted


def write_half_a_folder(path: Path) -> None:
    with committed_folder(path) as draft:
        (draft / "new").write_text("half")
        raise Interrupted


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_committed_file_is_there_only_when_the_block_is_over(tmp_path: Path):
    path = tmp_path / "new" / "file.txt"
    with committed_file(path) as draft:
        draft.write_text("content")
        assert not path.exists()
        assert draft.parent == path.parent
    assert path.read_text() == "content"
    assert names(path.parent) == {"file.txt"}


def test_committed_file_of_a_failed_block_leaves_the_old_content_and_no_draft(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(Interrupted):
        write_half_a_file(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_committed_folder_replaces_an_older_one_whole(tmp_path: Path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with committed_folder(path) as draft:
            (draft / name).write_text(name)
    assert names(path) == {"second"}
    assert names(tmp_path) == {"folder"}


def test_committed_folder_of_a_failed_block_leaves_the_old_content_and_no_draft(tmp_path: Path):
    path = tmp_path / "folder"
    with committed_folder(path) as draft:
        (draft / "old").write_text("old")
    with pytest.raises(Interrupted):
        write_half_a_folder(path)
    assert names(path) == {"old"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize("change", [committed_folder, remove_folder])
def test_a_folder_that_goes_is_gone_in_one_step_so_that_no_half_of_it_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any]
):
    path = tmp_path / "folder"
    path.mkdir()
    for name in ("old", "meta"):
        (path / name).write_text("old")

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        next(iter(sorted(folder.iterdir()))).unlink()
        raise Interrupted

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Interrupted), change(path) or nullcontext(path) as draft:
        (draft / "new").write_text("new")
    assert not path.exists() or names(path) == {"new"}
    monkeypatch.undo()
    remove_drafts(tmp_path)
    assert names(tmp_path) <= {"folder"}


def test_write_json_refuses_what_json_cannot_say_and_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "figures.json"
    write_json(path, {"accuracy": 0.5, "name": "für alle"})
    before = path.read_bytes()
    assert "für alle" in before.decode()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"accuracy": float("nan")})
    assert path.read_bytes() == before
    assert names(tmp_path) == {"figures.json"}


def test_remove_drafts_takes_files_and_folders_that_were_left_half_written(tmp_path: Path):
    (tmp_path / f"{TEMPORARY}1-a").mkdir()
    (tmp_path / f"{TEMPORARY}1-a" / "inside").write_text("half")
    (tmp_path / f"{TEMPORARY}2-b").write_text("half")
    (tmp_path / "whole").write_text("whole")
    remove_drafts(tmp_path)
    assert names(tmp_path) == {"whole"}


def test_sha256_of_is_that_of_the_bytes(tmp_path: Path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "make the folder writable"),
    ],
)
def test_writing_turns_an_operating_systems_error_into_advice(number: int, advice: str):
    with pytest.raises(StorageError, match=advice) as caught, writing(Path("place")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"place: cannot be written ({os.strerror(number)}); ")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A live process that holds the lock of `tmp_path`."""
    with holding(tmp_path) as process:
        yield process


def test_locked_refuses_a_folder_of_a_live_process_and_names_it(
    tmp_path: Path, holder: "subprocess.Popen[str]"
):
    with pytest.raises(StorageError, match=f"process {holder.pid} is using it"), locked(tmp_path):
        raise AssertionError("two processes hold the lock")


def test_locked_takes_the_folder_of_a_process_that_was_killed(
    tmp_path: Path, holder: "subprocess.Popen[str]"
):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().strip() == str(os.getpid())


def test_locked_waits_for_an_orphan_that_is_about_to_die(
    tmp_path: Path, holder: "subprocess.Popen[str]"
):
    held = threading.Event()

    def wait() -> None:
        with locked(tmp_path, wait_s=60):
            held.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not held.wait(0.1)
    holder.kill()
    assert held.wait(60)
    waiting.join()


def test_locked_lets_go_when_the_block_fails(tmp_path: Path):
    with pytest.raises(Interrupted), locked(tmp_path):
        raise Interrupted
    with locked(tmp_path):
        assert (tmp_path / ".lock").is_file()


def test_locked_holds_locks_of_different_names_beside_each_other(tmp_path: Path):
    with locked(tmp_path), locked(tmp_path, name=".writer.lock"):
        assert names(tmp_path) == {".lock", ".writer.lock"}


def test_locked_in_a_place_that_cannot_be_a_folder_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be written"), locked(tmp_path / "file"):
        raise AssertionError("a file was locked as a folder")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_without_room_for_a_single_byte_is_a_storage_error_when_a_folder_is_locked(
    full_disk: Path,
):
    (full_disk / "all").write_bytes(bytes(os.statvfs(full_disk).f_bavail * 4096))
    with pytest.raises(StorageError, match="free some space"), locked(full_disk):
        raise AssertionError("a lock that says nothing of its holder")


def write_a_file(place: Path) -> None:
    write_json(place / "file.json", "text")


def write_a_folder(place: Path) -> None:
    with committed_folder(place / "whole") as draft:
        (draft / "new").write_text("new")


def hold(place: Path) -> None:
    with locked(place):
        raise AssertionError("a lock where nothing can be written")


def scratch(place: Path) -> None:
    with scratch_folder(place, "ray"):
        raise AssertionError("a folder where nothing can be written")


@pytest.mark.parametrize(
    "write",
    [
        *(write_a_file, write_a_folder, hold, scratch, remove_drafts),
        lambda place: remove_folder(place / "whole"),
    ],
)
def test_where_nothing_can_be_written_all_is_a_storage_error_and_stays_as_it_was(
    full_disk: Path, write: Callable[[Path], None]
):
    with committed_folder(full_disk / "whole") as draft:
        (draft / "old").write_text("old")
    (full_disk / f"{TEMPORARY}1-half").write_text("half")
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    with pytest.raises(StorageError, match=r"cannot be written .* make the folder writable"):
        write(full_disk)
    assert names(full_disk) == {"whole", f"{TEMPORARY}1-half"}
    assert names(full_disk / "whole") == {"old"}


def test_without_a_folder_for_temporary_files_a_store_is_a_storage_error(
    bucket: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    for write in (write_a_file, write_a_folder, scratch):
        with pytest.raises(StorageError, match=r"temporary files: cannot be written .* TMPDIR"):
            write(bucket / "runs")


def json_of_a_megabyte(place: Path) -> None:
    write_json(place / "file.json", ["x" * 1000] * 1000)


def folder_of_a_megabyte(place: Path) -> None:
    with committed_folder(place / "folder") as draft:
        (draft / "small").write_text("small")
        (draft / "large").write_bytes(bytes(2**20))


def checkpoint_of_a_megabyte(place: Path) -> None:
    model = torch.nn.Linear(512, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save(place, tiny_meta(tiny_dataset(), {"name": "mlp"}), Training(model, optimizer, epoch=1))


def shard_of_a_megabyte(place: Path) -> None:
    from kd_ray.transfer_set import (
        Columns,
        Plan,
        SplitPlan,
        TeacherIdentity,
        index_sha256,
        shards,
    )
    from kd_ray.transfer_set import write_shard as write

    rows, classes = 2000, tuple(str(number) for number in range(200))
    index = np.arange(rows)
    nothing = SplitPlan(
        dataset_rows=0, fingerprint="", rows=0, index_sha256=index_sha256(index[:0])
    )
    train = SplitPlan(
        dataset_rows=rows, fingerprint="", rows=rows, index_sha256=index_sha256(index)
    )
    teacher = TeacherIdentity(sha256="0" * 64, model={}, accuracy=0.5, class_names=classes)
    plan = Plan(
        dataset="tiny",
        dataset_fingerprint="",
        class_names=classes,
        image_shape=(1, 1, 1),
        mean=(0.0,),
        std=(1.0,),
        splits={"train": train, "validation": nothing, "test": nothing},
        teachers=(teacher,),
        dtype="float32",
        views=1,
        augment={},
        seed=0,
        unlabelled=0.0,
        include_images=False,
        shard_rows=rows,
        compression="none",
    )
    logits = np.random.default_rng(0).normal(size=(rows, 1, len(classes)))
    view, label = np.zeros(rows, np.int32), np.zeros(rows, np.int64)
    write(place, plan, shards(plan)[0], Columns(index, view, label, logits))


@pytest.mark.parametrize(
    "write",
    [json_of_a_megabyte, folder_of_a_megabyte, checkpoint_of_a_megabyte, shard_of_a_megabyte],
)
def test_writing_to_a_full_disk_is_a_storage_error_and_leaves_nothing(
    full_disk: Path, write: Callable[[Path], None]
):
    with pytest.raises(StorageError, match="free some space"):
        write(full_disk)
    assert names(full_disk) == set()


def test_a_lock_on_a_full_disk_is_refused_with_one_sentence(full_disk: Path) -> None:
    (full_disk / "filled").write_bytes(bytes(2**18))
    with pytest.raises(StorageError, match="free some space"), locked(full_disk):
        pytest.fail("the lock says whose it is")
