import hashlib
import io
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from kd_ray.config import DataOptions
from kd_ray.datasets import open_dataset, storage
from kd_ray.datasets.storage import DRAFT, data_root, need_files
from kd_ray.errors import DataError

Serve = Callable[[dict[str, tuple[bytes, int]]], None]  # the fixture in conftest.py


def street_digits(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file in SVHN's format, and torchvision told that it is the published one."""
    file = io.BytesIO()
    pixels = np.zeros((32, 32, 3, 2), np.uint8)
    scipy.io.savemat(file, {"X": pixels, "y": np.array([[1], [10]], np.uint8)})
    md5 = hashlib.md5(file.getvalue()).hexdigest()
    published = f"""
import torchvision
for listed in torchvision.datasets.SVHN.split_list.values():
    listed[2] = {md5!r}
"""
    monkeypatch.setattr(storage, "DOWNLOAD", published + storage.DOWNLOAD)
    return file.getvalue()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download that puts a whole file into an empty folder, and counts itself in another file."""
    count = tmp_path / "count"
    monkeypatch.setattr(
        storage,
        "DOWNLOAD",
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "assert not list(folder.iterdir())\n"
        "(folder / 'a').write_text('whole')\n"
        f"open({str(count)!r}, 'a').write('x')\n",
    )
    return count


def test_open_dataset_downloads_what_is_missing_in_silence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = street_digits(monkeypatch)
    files = ("train_32x32.mat", "test_32x32.mat")
    serve({file: (content, len(content)) for file in files})
    root = tmp_path / "new"
    with pytest.warns(UserWarning, match="not the official SVHN"):
        found = open_dataset(DataOptions(name="svhn", root=str(root)))
    assert found.train.labels.tolist() == [1, 0]
    assert sorted(path.name for path in root.iterdir()) == sorted(files)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_open_dataset_downloads_beside_the_users_own_files_and_leaves_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    content = street_digits(monkeypatch)
    serve({file: (content, len(content)) for file in ("train_32x32.mat", "test_32x32.mat")})
    own = tmp_path / "train_32x32.mat"
    scipy.io.savemat(own, {"X": np.ones((32, 32, 3, 2), np.uint8), "y": [[7], [3]]})
    with pytest.warns(UserWarning, match="not the official SVHN"):
        found = open_dataset(DataOptions(name="svhn", root=str(tmp_path)))
    assert found.train.labels.tolist() == [7, 3]
    assert found.test.rows == 2


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_nothing_that_looks_like_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    content = street_digits(monkeypatch)
    serve({"train_32x32.mat": (content, len(content)), "test_32x32.mat": (content[:999], 5000)})
    with pytest.raises(DataError, match=r"svhn: .*download failed.*corrupted"):
        open_dataset(DataOptions(name="svhn", root=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("program")
def test_need_files_does_not_trust_what_a_killed_process_left(tmp_path: Path) -> None:
    left = tmp_path / DRAFT / "files" / "a"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    need_files("any", tmp_path, ["a"], "Any")
    assert (tmp_path / "a").read_text() == "whole"
    assert not (tmp_path / DRAFT).exists()


def test_need_files_lets_one_of_many_processes_download(tmp_path: Path, program: Path) -> None:
    threads = [
        threading.Thread(target=need_files, args=("any", tmp_path, ["a"], "Any")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() == "whole"
    assert program.read_text() == "x"


@pytest.mark.usefixtures("silent")
@pytest.mark.slow
def test_a_download_from_a_server_that_says_nothing_is_given_up_and_changes_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SILENCE_S", 0.5)
    with pytest.raises(DataError, match=r"download failed \(.*timed out"):
        open_dataset(DataOptions(name="svhn", root=str(tmp_path)))
    assert socket.getdefaulttimeout() is None


def test_need_files_below_a_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/root must hold a, but"):
        need_files("any", tmp_path / "file" / "root", ["a"], "Any")


def test_data_root_is_the_recipes_then_the_environments_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KD_RAY_DATA", str(tmp_path / "environment"))
    given = DataOptions(name="mnist", root=str(tmp_path / "recipe"))
    assert data_root(given) == tmp_path / "recipe"
    assert data_root(DataOptions(name="mnist")) == tmp_path / "environment"
    monkeypatch.delenv("KD_RAY_DATA")
    assert data_root(DataOptions(name="mnist")) == tmp_path / "cache" / "kd-ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root(DataOptions(name="mnist")) == Path.home() / ".cache" / "kd-ray"


def test_data_root_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_root(DataOptions(name="mnist", root="here")) == tmp_path / "here"
