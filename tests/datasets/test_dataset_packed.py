"""Packed datasets: what is packed is read back, whatever way it is held, or refused by name."""

import errno
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq
from tiny_pictures import encoded, save

from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, PackedImages, open_dataset
from kd_ray.datasets.packed import groups, write
from kd_ray.datasets.packed.plan import MANIFEST, read_pack_manifest
from kd_ray.datasets.packed.write import ShardPacked, pack
from kd_ray.errors import ConfigError, DataError, KdRayError, StorageError

BUFFER = 2**20


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "GROUP_BYTES", 640)  # ten digits
    monkeypatch.setattr(write, "GROUPS_IN_SHARD", 5)


def packed(root: Path, hold: str = "stream", **options: Any) -> Dataset:
    given = {"name": "packed", "root": str(root), "hold": hold, "buffer_bytes": BUFFER}
    return open_dataset(DataOptions.model_validate(given | options))


def packing(folder: Path, name: str = "digits", **options: Any) -> list[ShardPacked]:
    leave_out = options.pop("leave_out", False)
    return list(pack(DataOptions(name=name, **options), folder, leave_out=leave_out))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "GROUP_BYTES", 640)
        patch.setattr(write, "GROUPS_IN_SHARD", 5)
        packing(folder)
    return folder


def rows_of(folder: Path, split: str) -> dict[str, Any]:
    """All columns of a split, read as other programs read them."""
    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pydict()


def test_a_packed_dataset_is_the_dataset_in_another_order(digits: Path) -> None:
    whole, there = open_dataset(DataOptions(name="digits")), packed(digits)
    assert there.class_names == whole.class_names
    assert (there.mean, there.std) == (whole.mean, whole.std)
    for split in ("train", "test"):
        ours, theirs = getattr(there, split), getattr(whole, split)
        index = torch.tensor(rows_of(digits, split)["index"])
        assert sorted(index.tolist()) == list(range(theirs.rows)) != index.tolist()
        assert torch.equal(ours.labels, theirs.labels[index])
        assert torch.equal(ours.in_memory, theirs.images[index])


@pytest.fixture(scope="module")
def held(digits: Path) -> tuple[Dataset, Dataset]:
    """The same rows streamed and in memory."""
    return packed(digits), packed(digits, "host")


@given(st.lists(st.integers(0, 1345), min_size=1, max_size=60))
@settings(max_examples=25)
def test_any_rows_are_read_in_the_order_that_they_are_asked_for(
    held: tuple[Dataset, Dataset], rows: list[int]
):
    streamed, memory = held
    wanted = torch.tensor(rows)
    assert torch.equal(streamed.train.images[wanted], memory.train.images[wanted])


@given(st.sets(st.integers(0, 1345), min_size=1, max_size=60))
@settings(max_examples=10)
def test_a_part_of_a_part_is_the_part_of_what_is_in_memory(digits: Path, rows: set[int]):
    kept = torch.zeros(1346, dtype=torch.bool)
    kept[sorted(rows)] = True
    parts = [packed(digits, hold).train.part("train", kept) for hold in ("stream", "host")]
    assert isinstance(parts[0].images, PackedImages)
    assert torch.equal(parts[0].in_memory, parts[1].in_memory)
    assert parts[0].fingerprint == parts[1].fingerprint


@pytest.mark.parametrize("options", [{}, {"validation": 100}, {"fraction": 0.3, "labelled": 0.5}])
def test_a_packed_dataset_is_the_same_however_it_is_held(digits: Path, options: Any) -> None:
    streamed, memory = packed(digits, **options), packed(digits, "host", **options)
    assert isinstance(streamed.train.images, PackedImages)
    assert isinstance(memory.train.images, torch.Tensor)
    assert streamed.fingerprint == memory.fingerprint
    assert (streamed.mean, streamed.std) == (memory.mean, memory.std)
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(streamed, split), getattr(memory, split)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.in_memory, theirs.in_memory)


def test_validation_rows_of_a_packed_dataset_lie_together(digits: Path) -> None:
    found = packed(digits, validation=100)
    assert found.validation.packed is not None
    assert found.validation.packed.numbers.tolist() == list(range(100))


def test_a_packing_that_was_ended_goes_on_and_ends_with_the_same_bytes(
    digits: Path, tmp_path: Path
) -> None:
    list(islice(pack(DataOptions(name="digits"), tmp_path), 3))
    (tmp_path / "train-00001.parquet").write_bytes(b"half")
    with pytest.raises(DataError, match="must be a packed dataset"):
        packed(tmp_path)
    kept = [shard.existed for shard in packing(tmp_path)]
    assert kept[:3] == [True, False, True]
    assert not any(kept[5:])  # what was worked on when it was ended may be whole
    for file in read_pack_manifest(digits).files:
        assert (tmp_path / file.name).read_bytes() == (digits / file.name).read_bytes()
    assert read_pack_manifest(tmp_path).sha256 == read_pack_manifest(digits).sha256
    assert all(shard.existed for shard in packing(tmp_path))


def test_a_folder_takes_one_packing_only(digits: Path, tmp_path: Path) -> None:
    packing(tmp_path, fraction=0.5)
    with pytest.raises(DataError, match=r"same packing, but .* \(there the file\)"):
        packing(tmp_path)
    (tmp_path / "train-00099.parquet").touch()
    with pytest.raises(DataError, match="may hold files of this packed dataset only"):
        packing(tmp_path, fraction=0.5)


# Pictures as files hold them


def folder_of_pictures(root: Path, broken: int = 0) -> Path:
    for split, count in (("train", 30), ("test", 6)):
        for number in range(count):
            kind = "jpg" if number % 2 else "png"
            save(root / split / f"c{number % 3}" / f"{number}.{kind}", 7 * number)
    for number in range(broken):
        path = root / "train" / f"c{number % 3}" / f"{number}.{'jpg' if number % 2 else 'png'}"
        path.write_bytes(path.read_bytes()[:40])
    return root


def test_pictures_of_folders_are_packed_as_they_are(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "pictures")
    packing(tmp_path / "packed", "imagefolder", root=str(root))
    files = sorted((root / "train").rglob("*.*"))
    rows = rows_of(tmp_path / "packed", "train")
    assert rows["image"] == [files[index].read_bytes() for index in rows["index"]]
    whole = open_dataset(DataOptions(name="imagefolder", root=str(root)))
    found = packed(tmp_path / "packed")
    assert torch.equal(found.train.in_memory, whole.train.images[torch.tensor(rows["index"])])
    assert (found.mean, found.std) == (whole.mean, whole.std)
    assert found.fingerprint == packed(tmp_path / "packed", "host").fingerprint


def test_pictures_of_a_table_are_packed_as_they_are_and_other_readers_read_them(
    tmp_path: Path,
) -> None:
    images = [encoded(8 * number, (9, 7), "JPEG") for number in range(24)]
    labels = [None if number == 5 else f"c{number % 2}" for number in range(24)]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": labels})
    pq.write_table(table, tmp_path / "train.parquet")
    options = {"root": str(tmp_path / "train.parquet"), "image_size": 4}
    packing(tmp_path / "packed", "parquet", **options)
    whole = open_dataset(DataOptions(name="parquet", **options))
    rows = rows_of(tmp_path / "packed", "train")
    index = torch.tensor(rows["index"])
    found = packed(tmp_path / "packed")
    assert torch.equal(found.train.in_memory, whole.train.images[index])
    assert torch.equal(found.train.labels, whole.train.labels[index])
    counted = duckdb.sql(
        f"select count(*), count(label) from '{tmp_path}/packed/*.parquet'"
    ).fetchall()
    assert counted == [(24, 23)]


def test_a_picture_that_does_not_decode_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "pictures", broken=4)
    with pytest.raises(DataError, match=r"train/c\d/\d\.\w+: must be a picture.*--leave-out"):
        packing(tmp_path / "packed", "imagefolder", root=str(root))
    packing(tmp_path / "less", "imagefolder", root=str(root), leave_out=True)
    manifest = read_pack_manifest(tmp_path / "less")
    assert sorted(manifest.left_out) == [
        "train/c0/0.png", "train/c0/3.jpg", "train/c1/1.jpg", "train/c2/2.png",
    ]  # fmt: skip
    found = packed(tmp_path / "less")
    assert found.train.rows == 26
    assert found.train.in_memory.shape == (26, 3, 8, 8)


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "pictures")
    save(root / "train" / "c1" / "1.jpg", 3, (9, 8))
    with pytest.raises(DataError, match=r"1\.jpg: all pictures must have one size, but it has 9 x"):
        packing(tmp_path / "packed", "imagefolder", root=str(root))


# What is not as it was packed


def copied(digits: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in digits.glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("when", ["before", "amid"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing", "must be there, as packed.json names it, but is missing"),
        ("truncated", r"must have [\d,]+ bytes, but has [\d,]+: it was truncated"),
        ("changed", "row group 4: must be as it was packed, but cannot be read"),
        (
            "another",
            r"but is another file|it was (truncated|altered)",
        ),
    ],
)
def test_a_shard_that_was_harmed_is_named_when_it_is_read(
    digits: Path, tmp_path: Path, when: str, harm: str, message: str
) -> None:
    folder = copied(digits, tmp_path)
    path = folder / "train-00002.parquet"

    def spoil() -> None:
        content = bytearray(path.read_bytes())
        if harm == "missing":
            path.unlink()
        elif harm == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif harm == "another":
            path.write_bytes((digits / "test-00000.parquet").read_bytes())
        else:
            pixels = rows_of(folder, "train")["image"][149]
            content[content.index(pixels) + 5] ^= 1
            path.write_bytes(content)

    def read() -> None:
        images = packed(folder).train.images
        if when == "amid":
            assert images[torch.arange(100)].shape == (100, 1, 8, 8)
            spoil()
        assert images[torch.arange(1346)].shape

    if when == "before":
        spoil()
    with pytest.raises(DataError, match=message):
        read()


def test_a_manifest_that_was_changed_is_refused(digits: Path, tmp_path: Path) -> None:
    path = copied(digits, tmp_path) / MANIFEST
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="is not what its sha256 says"):
        packed(tmp_path)


def test_what_cannot_be_packed_or_streamed_is_refused(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KD_RAY_DATA", raising=False)
    with pytest.raises(DataError, match="is packed already"):
        list(pack(DataOptions(name="packed", root=str(digits), hold="stream"), tmp_path))
    with pytest.raises(ValueError, match="hold = 'stream' is for data that is packed"):
        DataOptions(name="mnist", hold="stream")
    with pytest.raises(KdRayError, match="needs the folder"):
        open_dataset(DataOptions(name="packed"))


def test_a_buffer_without_room_for_two_groups_is_refused(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_ray.datasets.packed.groups.Groups.largest_bytes", 2**20)
    with pytest.raises(ConfigError, match="must have room for two row groups"):
        packed(digits)


def test_a_disk_that_is_full_ends_a_packing_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(StorageError, match=r"cannot be written \(No space left"):
            packing(tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    assert not packing(tmp_path)[0].existed


def test_a_store_that_stops_answering_is_asked_again_and_then_named(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, asked = packed(digits).train.images, list[float]()
    monkeypatch.setattr(groups, "WAITS_S", (0.0, 0.0))
    read = groups.opened_to_read

    def silent(path: Path, size_bytes: int) -> Any:
        asked.append(size_bytes)
        if len(asked) <= outage:
            raise StorageError(f"{path}: the store does not answer as it should")
        return read(path, size_bytes)

    monkeypatch.setattr(groups, "opened_to_read", silent)
    outage = 2
    assert images[torch.arange(3)].shape == (3, 1, 8, 8)
    asked.clear()
    outage = 3
    with pytest.raises(StorageError, match="does not answer"):
        images[torch.arange(3)]
