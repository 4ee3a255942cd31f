"""Places in an object store: a real S3-compatible server, read and written as a disk is."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from processes import holding
from tiny import tiny_dataset, tiny_meta, tiny_model
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.errors import ConfigError, StorageError
from kd_ray.files import (
    committed_file,
    committed_folder,
    is_stored,
    local_copies,
    lock,
    locked,
    paths,
    remove_folder,
    store,
    to_path,
    write_json,
)
from kd_ray.files.paths import StoredPath
from kd_ray.training.checkpoint import META, WEIGHTS, epoch_folder, epochs_in, retain, save
from kd_ray.training.progress import Training

TREE = (
    "recipe.toml",
    "teacher/member-00/result.json",
    "teacher/member-00/epoch-0002/meta.json",
    "student/labels/seed-0/result.json",
    "student/distilled/seed-0/epoch-0001/meta.json",
    "student/distilled/seed-0/epoch-0001/model.safetensors",
)


class Interrupted(Exception):
    """Stands for whatever ends a block half-way."""


def put(folder: Path, name: str, text: str = "content") -> Path:
    with committed_file(folder / name) as draft:
        draft.write_text(text)
    return folder / name


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


@pytest.mark.parametrize("text", ["runs", "/tmp/runs", "a:b", "C:/runs", "runs/epoch:/x"])
def test_text_without_a_scheme_is_a_local_path(text: str):
    assert to_path(text) == Path(text)
    assert not is_stored(to_path(text))


def test_a_place_in_a_store_is_its_url_and_below_it_like_a_path(stored_folder: Path):
    found = stored_folder / "runs" / "mnist"
    assert to_path(str(found)) == found
    assert str(found) == f"{stored_folder}/runs/mnist"
    assert (found.name, found.parent) == ("mnist", stored_folder / "runs")
    assert str(found.relative_to(stored_folder)) == "runs/mnist"
    assert is_stored(found)


def test_a_url_that_has_lost_a_slash_in_a_path_is_the_same_place(stored_folder: Path):
    assert to_path(Path(str(stored_folder))) == stored_folder


@pytest.mark.parametrize("url", ["s3://key:hush@bucket/runs", "s3://hush@bucket", "gs://a:hush/b"])
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str):
    with pytest.raises(ConfigError, match="set the credentials in the environment") as caught:
        to_path(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://host/runs", "begins with s3:// or gs://"),
        ("s3://", "must name a bucket"),
        ("s3://bucket/a/../b", "has '..' in it"),
    ],
)
def test_a_url_that_is_no_place_is_refused(url: str, rule: str):
    with pytest.raises(ConfigError, match=rule):
        to_path(url)


def test_a_committed_file_is_there_only_when_the_block_is_over(stored_folder: Path):
    path = stored_folder / "new" / "file.txt"
    with committed_file(path) as draft:
        draft.write_text("content")
        assert not path.exists()
        assert not is_stored(draft)
    assert path.read_text(encoding="utf-8") == "content"
    assert path.stat().st_size == len("content")
    assert names(path.parent) == ["file.txt"]
    assert not draft.parent.exists()


def write_half(path: Path) -> None:
    with committed_file(path) as draft:
        draft.write_text("half")
        raise Interrupted


def test_a_committed_file_of_a_failed_block_leaves_the_old_content(stored_folder: Path):
    path = put(stored_folder, "file.txt", "old")
    with pytest.raises(Interrupted):
        write_half(path)
    assert path.read_text(encoding="utf-8") == "old"


def test_a_committed_folder_uploads_the_file_that_makes_it_whole_last(
    stored_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[list[str]] = []
    upload, delete = StoredPath.put, StoredPath.unlink
    monkeypatch.setattr(
        StoredPath,
        "put",
        lambda self, files: (steps.append([f.name for f in files]), upload(self, files)),
    )
    monkeypatch.setattr(
        StoredPath, "unlink", lambda self: (steps.append(["no", self.name]), delete(self))
    )
    for text in ("first", "second"):
        with committed_folder(stored_folder / "folder", last="z-first.json") as draft:
            for name in ("weights", text, "z-first.json"):
                (draft / name).write_text(text)
    once = [["first", "weights"], ["z-first.json"]]
    again = [["no", "z-first.json"], ["second", "weights"], ["z-first.json"]]
    assert steps == once + again
    assert names(stored_folder / "folder") == ["second", "weights", "z-first.json"]


@pytest.mark.parametrize(
    ("how", "pattern"),
    [
        ("glob", "*"),
        ("glob", "recipe.toml"),
        ("glob", "nothing"),
        ("glob", "teacher/member-*/result.json"),
        ("glob", "student/*"),
        ("glob", "student/*/seed-*"),
        ("rglob", "result.json"),
        ("rglob", "epoch-*/meta.json"),
        ("rglob", "epoch-*"),
    ],
)
def test_a_store_finds_what_a_disk_finds(bucket: Path, tmp_path: Path, how: str, pattern: str):
    folder = bucket / "tree"
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
        if not (folder / name).is_file():
            put(folder, name)
    there = [str(path.relative_to(folder)) for path in getattr(folder, how)(pattern)]
    assert there == sorted(str(p.relative_to(tmp_path)) for p in getattr(tmp_path, how)(pattern))


def test_files_folders_and_what_is_not_there_are_told_apart(stored_folder: Path):
    put(stored_folder, "folder/file")
    for path, is_file, is_dir in [
        (stored_folder / "folder", False, True),
        (stored_folder / "folder" / "file", True, False),
        (stored_folder / "fold", False, False),
    ]:
        assert (path.is_file(), path.is_dir()) == (is_file, is_dir)
        assert path.exists() == (is_file or is_dir)
    with pytest.raises(FileNotFoundError):
        (stored_folder / "nothing").read_bytes()
    with pytest.raises(FileNotFoundError):
        (stored_folder / "folder").stat()


def test_local_copies_leave_out_what_is_not_there_and_errors_name_the_place(stored_folder: Path):
    put(stored_folder, "there")
    with local_copies(stored_folder, ["there", "missing"]) as folder:
        assert names(folder) == ["there"]
    assert not folder.exists()
    with (
        pytest.raises(StorageError, match=f"^{stored_folder}/there: broken$"),
        local_copies(stored_folder, ["there"]) as folder,
    ):
        raise StorageError(f"{folder / 'there'}: broken")


def test_json_comes_back_from_a_store_as_it_went(stored_folder: Path):
    write_json(stored_folder / "figures.json", {"accuracy": 0.5, "name": "für alle"})
    found = json.loads((stored_folder / "figures.json").read_bytes())
    assert found == {"accuracy": 0.5, "name": "für alle"}


def checkpoint(folder: Path, epoch: int) -> Path:
    model = tiny_model()
    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), epoch)
    return save(folder, tiny_meta(tiny_dataset(), {"name": "mlp"}), training)


def test_a_half_uploaded_checkpoint_is_not_seen_and_is_cleared_away(stored_folder: Path):
    checkpoint(stored_folder, 1)
    (checkpoint(stored_folder, 2) / META).unlink()  # what a kill leaves before the last upload
    assert (epoch_folder(stored_folder, 2) / WEIGHTS).is_file()
    assert epochs_in(stored_folder) == [1]
    retain(stored_folder, {1})
    assert names(stored_folder) == ["epoch-0001"]


def test_a_checkpoint_in_a_store_has_the_bytes_of_one_on_a_disk(
    stored_folder: Path, tmp_path: Path
):
    there, here = checkpoint(stored_folder, 1), checkpoint(tmp_path, 1)
    assert names(there) == sorted(names(here))
    for file in here.iterdir():
        assert (there / file.name).read_bytes() == file.read_bytes()


@pytest.fixture
def holder(stored_folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A live process that holds a folder of the store."""
    with holding(stored_folder) as process:
        yield process


def test_a_folder_of_a_live_process_is_refused_and_that_of_a_killed_one_taken_at_once(
    stored_folder: Path, holder: "subprocess.Popen[str]"
):
    with (
        pytest.raises(StorageError, match=f"but process {holder.pid} on .* is using it; wait"),
        locked(stored_folder),
    ):
        raise AssertionError("two processes hold the lease")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(stored_folder):
        assert holders(stored_folder) == [os.getpid()]
    assert names(stored_folder) == []


def holders(folder: Path) -> list[int]:
    """Processes that have a claim on a folder."""
    claims = [path for path in folder.glob(".lock*") if path.suffix != lock.SIGN]
    return [json.loads(claim.read_bytes())["pid"] for claim in claims]


def of_elsewhere(folder: Path, sign: int = 1) -> None:
    """The lease of a process on another machine, which nobody here can look at."""
    content = {"host": "node-7", "pid": 4, "machine": "other", "began": "1"}
    (folder / ".lock-4").write_bytes(json.dumps(content).encode())
    (folder / f".lock-4{lock.SIGN}").write_bytes(str(sign).encode())


def test_a_silent_holder_elsewhere_is_waited_for_and_then_followed(
    stored_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "LEASE_S", 0.5)
    of_elsewhere(stored_folder)
    with (
        pytest.warns(UserWarning, match="process 4 on node-7 used it .* waiting up to"),
        locked(stored_folder),
    ):
        assert holders(stored_folder) == [os.getpid()]


@pytest.mark.filterwarnings("ignore:.*process 4 on node-7 used it")
def test_a_holder_elsewhere_that_shows_itself_is_refused(
    stored_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    looks = []

    def look(self: lock.Lease) -> lock.Claims:
        looks.append(len(looks))
        of_elsewhere(stored_folder, sign=len(looks))
        return claims(self)

    claims = lock.Lease.claims
    monkeypatch.setattr(lock.Lease, "claims", look)
    with (
        pytest.raises(StorageError, match="but process 4 on node-7 is using it"),
        locked(stored_folder),
    ):
        raise AssertionError("two processes hold the lease")


class Clock:
    """Time of two rivals: each wait is as long as a lease, until it is made to stand still."""

    def __init__(self) -> None:
        self.now, self.stands = 0.0, False

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 0 if self.stands else lock.LEASE_S
        threading.Event().wait(0.01)


class Slow:
    """A rival that falls asleep before or after its n-th request on its way to a lease.

    Attributes:
        asleep: set when it sleeps, and when it is over.
        wakes: ends its sleep.
        slept: whether it did.
        wrote: whether it came to write into the folder.
    """

    def __init__(self, folder: Path, nth: int) -> None:
        self.asleep, self.wakes = threading.Event(), threading.Event()
        self.slept = self.wrote = False
        self._folder, self._left, self._is_on_its_way = folder, nth, True
        self.thread = threading.Thread(target=self._run)

    def tires(self) -> None:
        if self._is_on_its_way and threading.current_thread() is self.thread:
            self._left -= 1
            if self._left == 0:
                self.slept = True
                self.asleep.set()
                assert self.wakes.wait(60)

    def _run(self) -> None:
        with suppress(StorageError), locked(self._folder):
            self._is_on_its_way = False
            put(self._folder, "slow")
            self.wrote = True
        self.asleep.set()


@pytest.mark.filterwarnings("ignore:.*used it and did not say that it has ended")
@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda folder: None, id="free"),
        pytest.param(
            lambda folder: of_elsewhere(folder), id="of a dead one", marks=pytest.mark.slow
        ),
    ],
)
def test_of_two_rivals_one_may_write_wherever_the_slower_one_sleeps_for_longer_than_a_lease(
    stored_folder: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Path], object]
):
    clock, answering, slow = Clock(), paths.answering, []

    @contextmanager
    def tiring(where: object) -> Iterator[None]:
        slow[-1].tires()
        try:
            with answering(where):
                yield
        finally:
            slow[-1].tires()

    monkeypatch.setattr(paths, "answering", tiring)
    monkeypatch.setattr(lock, "time", clock)
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    monkeypatch.setattr(lock, "_lives_here", lambda found: None)  # as on machines of their own
    while not slow or slow[-1].slept:
        folder = stored_folder / str(len(slow))
        slow.append(Slow(folder, 1 + len(slow)))
        leave(folder)
        clock.stands = False
        slow[-1].thread.start()
        assert slow[-1].asleep.wait(60)
        if slow[-1].slept:
            with locked(folder):
                clock.stands = True  # from here on the fast one is in time with its signs of life
                slow[-1].wakes.set()
                slow[-1].thread.join(60)
                put(folder, "fast")
                assert not slow[-1].wrote, f"both write: it slept at {len(slow)}"
    assert len(slow) > 4


def test_rivals_that_wait_have_a_folder_one_after_the_other(stored_folder: Path):
    inside, orders = [], []

    def take() -> None:
        with locked(stored_folder, wait_s=60):
            inside.append(1)
            orders.append(len(inside))
            put(stored_folder, "kept")
            inside.pop()

    rivals = [threading.Thread(target=take) for _ in range(4)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(60)
    assert orders == [1, 1, 1, 1]


def test_a_lease_is_renewed_while_it_is_held(stored_folder: Path, monkeypatch: pytest.MonkeyPatch):
    renewed = threading.Event()
    renew = lock.Lease.renew
    monkeypatch.setattr(lock, "RENEW_S", 0.01)
    monkeypatch.setattr(lock.Lease, "renew", lambda self: (renew(self), renewed.set()))
    with locked(stored_folder):
        assert renewed.wait(30)
        assert any(path.suffix == lock.SIGN for path in stored_folder.glob(".lock*"))
    assert names(stored_folder) == []


def test_who_has_lost_a_lease_writes_no_more(stored_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "LEASE_S", 0.0)  # as if this process had been asleep for long
    kept = put(stored_folder, "kept")
    with locked(stored_folder):
        put(stored_folder, "before")
        for claim in stored_folder.glob(".lock*"):  # as who takes over does it
            claim.unlink()
        of_elsewhere(stored_folder)
        for write in (lambda: put(stored_folder, "after"), lambda: remove_folder(stored_folder)):
            with pytest.raises(StorageError, match="another took it over"):
                write()
    assert kept.is_file()
    assert not (stored_folder / "after").exists()
    assert holders(stored_folder) == [4]


def absent_bucket(patch: pytest.MonkeyPatch) -> str:
    return "s3://no-such-bucket/runs"


def endpoint_that_refuses(patch: pytest.MonkeyPatch) -> str:
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return "s3://refused/runs"


def no_credentials(patch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.delenv(name)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return "s3://denied/runs"


def missing_extra(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "gcsfs", None)
    return "gs://bucket/runs"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (absent_bucket, "'no-such-bucket' is not; make it, or correct the URL"),
        (endpoint_that_refuses, "check the network and, of a store of your own, AWS_ENDPOINT_URL"),
        (no_credentials, "set credentials that may read and write there in the environment"),
        (missing_extra, "install it with: pip install 'kd-ray[gcs]'"),
    ],
)
@pytest.mark.parametrize("command", [["inspect"], ["run", "quickstart", "--local", "--runs"]])
def test_a_store_that_cannot_be_used_is_one_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[pytest.MonkeyPatch], str],
    says: str,
    command: list[str],
):
    answer = CliRunner().invoke(app, [*command, make(monkeypatch)])
    assert answer.exit_code == 2, (answer.output, answer.exception)
    assert answer.stderr.count("\n") == 1
    assert says in answer.stderr


@pytest.mark.usefixtures("bucket")
def test_a_store_that_never_answers_is_a_sentence_and_no_hang(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "REACH_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="no answer within 1 s"):
            to_path("s3://silent/runs")


def test_the_time_for_a_first_answer_is_below_fifteen_seconds():
    assert store.REACH_S < 15


@pytest.mark.usefixtures("bucket")
def test_what_a_store_says_of_credentials_is_not_repeated(monkeypatch: pytest.MonkeyPatch):
    words = f"{os.environ['AWS_SECRET_ACCESS_KEY']} is wrong at http://me:hush@host/b"
    with pytest.raises(StorageError) as caught, store.answering("s3://b/runs"):
        raise PermissionError(words)
    assert "a-secret" not in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "http://host/b" in str(caught.value)


def test_a_bug_is_not_taken_for_a_failure_of_the_store():
    with pytest.raises(TypeError), store.answering("s3://b/runs"):
        raise TypeError("a bug")
