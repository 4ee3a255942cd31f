"""Laws of tables: which rows are read, in which order, as which class, and what is refused."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_pictures import encoded, save

from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, given_root, open_dataset
from kd_ray.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("no_root")

Labels = list[Any]
HUB = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def opened(root: Path | None, name: str = "parquet", **options: Any) -> Dataset:
    return open_dataset(DataOptions(name=name, root=None if root is None else str(root), **options))


def hub(
    path: Path, labels: Labels, names: Any = None, kind: Any = None, first: int = 0, **more: Any
) -> None:
    """A file as the hub has them: row r is a picture of the value `first` + r."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": encoded(first + row), "path": None} for row in range(len(labels))]
    columns = {"image": pa.array(cells, HUB), "label": pa.array(labels, kind), **more}
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, row_group_size=3)


def comma(path: Path, *rows: tuple[str, ...], first: tuple[str, ...] = ("image", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([first, *rows])
    return path


def pictures(folder: Path, count: int = 12) -> list[str]:
    for number in range(count):
        save(folder / "pictures" / f"{number}.png", number)
    return [f"pictures/{number}.png" for number in range(count)]


def values(dataset: Dataset, split: str) -> list[int]:
    found: list[int] = getattr(dataset, split).images[:, 0, 0, 0].tolist()
    return found


def test_parquet_reads_the_layout_of_the_hub_in_the_order_of_files_and_rows(tmp_path: Path) -> None:
    hub(tmp_path / "data" / "train-00001-of-00002.parquet", [1, 1], ["cat", "dog"], first=10)
    hub(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 0, 1], ["cat", "dog"])
    hub(tmp_path / "data" / "test-00000-of-00001.parquet", [1, 0], ["cat", "dog"], first=20)
    found = opened(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert found.image_shape == (3, 8, 8)
    assert values(found, "train") == [0, 1, 2, 3, 10, 11]
    assert found.train.labels.tolist() == [0, 1, 0, 1, 1, 1]
    assert values(found, "test") == [20, 21]
    assert found.test.labels.tolist() == [1, 0]
    assert opened(tmp_path).fingerprint == found.fingerprint


def test_parquet_and_csv_with_the_same_rows_are_the_same_dataset(tmp_path: Path) -> None:
    names, labels = pictures(tmp_path), [["cat", "dog"][n % 2] for n in range(12)]
    comma(tmp_path / "train.csv", *zip(names[:8], labels[:8], strict=True))
    comma(tmp_path / "test.csv", *zip(names[8:], labels[8:], strict=True))
    hub(tmp_path / "hub" / "train.parquet", labels[:8])
    hub(tmp_path / "hub" / "test.parquet", labels[8:], first=8)
    split = ["train"] * 8 + ["test"] * 4
    one = tmp_path / "one.parquet"
    pq.write_table(pa.table({"image": names, "label": labels, "split": split}), one)
    found = [opened(tmp_path / "hub"), opened(tmp_path, "csv"), opened(one)]
    assert len({dataset.fingerprint for dataset in found}) == 1
    assert values(found[0], "train") == list(range(8))
    assert found[0].class_names == ("cat", "dog")


@pytest.mark.parametrize("folders", [True, False])
def test_validation_files_are_tested_on_where_no_others_are(tmp_path: Path, folders: bool) -> None:
    for first, split in enumerate(("train", "validation")):
        path = f"{split}/0000.parquet" if folders else f"{split}-0.parquet"
        hub(tmp_path / path, [0, 1], first=100 * first)
    assert values(opened(tmp_path), "test") == [100, 101]
    hub(tmp_path / ("test/0000.parquet" if folders else "test-0.parquet"), [0, 1], first=200)
    found = opened(tmp_path)
    assert (values(found, "train"), values(found, "test")) == ([0, 1], [200, 201])


@pytest.mark.parametrize("name", ["train.parquet", "everything.parquet"])
def test_a_fixed_fifth_of_every_class_is_tested_on_where_nothing_is_for_that(
    tmp_path: Path, name: str
) -> None:
    hub(tmp_path / name, [0] * 10 + [1] * 5 + [None] * 10)
    one, other = opened(tmp_path), opened(tmp_path / name, seed=3, validation=4)
    assert torch.bincount(one.test.labels).tolist() == [2, 1]
    assert torch.bincount(one.train.labels + 1).tolist() == [10, 8, 4]
    assert other.test.fingerprint == one.test.fingerprint
    assert (other.validation.labels >= 0).all()


def test_pictures_without_a_label_are_of_the_training_split_alone(tmp_path: Path) -> None:
    hub(tmp_path / "train.parquet", [0, 1, None, -1])
    hub(tmp_path / "test.parquet", [0, 1], first=10)
    bare = pa.table({"image": pa.array([encoded(20), encoded(21)])})
    pq.write_table(bare, tmp_path / "unlabelled.parquet")
    found = opened(tmp_path)
    assert values(found, "train") == [0, 1, 2, 3, 20, 21]
    assert found.train.labels.tolist() == [0, 1, -1, -1, -1, -1]
    hub(tmp_path / "test.parquet", [0, None], first=10)
    with pytest.raises(DataError, match=r"test\.parquet, row 1: .*test split must have a label"):
        opened(tmp_path)


def test_an_empty_label_of_a_csv_file_is_one_that_is_not_known(tmp_path: Path) -> None:
    names = pictures(tmp_path)
    labels, split = ["1", "10", "", "-1", "9", "1"], ["train"] * 5 + ["test"]
    rows = zip(names[:6], labels, split, strict=True)
    table = comma(tmp_path / "a.csv", *rows, first=("image", "label", "split"))
    found = opened(table, "csv")
    assert found.class_names == ("1", "9", "10")
    assert found.train.labels.tolist() == [0, 2, -1, -1, 1]
    with pytest.raises(ConfigError, match=r"classes: chooses .* 2 training images have none"):
        opened(table, "csv", classes=["1", "9"])


def test_a_csv_file_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    names = pictures(tmp_path)
    rows = "".join(f'"{name}","007{n % 2}"\r\n' for n, name in enumerate(names))
    text = "\ufeffimage,label\r\n" + rows  # with the mark that spreadsheets put first
    (tmp_path / "all.csv").write_bytes(text.encode())
    assert opened(tmp_path, "csv").class_names == ("0070", "0071")


def test_numbers_of_classes_without_names_are_names_in_their_order(tmp_path: Path) -> None:
    hub(tmp_path / "train.parquet", [10, 9, 30])
    hub(tmp_path / "test.parquet", [30])
    found = opened(tmp_path)
    assert found.class_names == ("9", "10", "30")
    assert found.train.labels.tolist() == [1, 0, 2]
    hub(tmp_path / "test.parquet", [31])
    with pytest.raises(DataError, match=r"test\.parquet, row 0: .* one of the 3 classes.*is 31"):
        opened(tmp_path)


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    table = {
        "img": [{"bytes": encoded(1)}, {"bytes": encoded(2)}],
        "coarse": [5, 5],
        "fine": [1, 0],
    }
    for split in ("train", "test"):
        pq.write_table(pa.table(table), tmp_path / f"{split}.parquet")
    columns = {"image": "img", "label": "fine"}
    assert opened(tmp_path, columns=columns).train.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"must have one column 'image', .* img, coarse, fine"):
        opened(tmp_path)
    with pytest.raises(DataError, match="must have one column 'part'"):
        opened(tmp_path, columns={**columns, "split": "part"})


def test_categories_are_names_and_sizes_are_made_one(tmp_path: Path) -> None:
    cells = pa.array([encoded(1, (9, 20)), encoded(2, (30, 8), "JPEG"), encoded(3)])
    labels = pa.array(["b", "a", "b"]).dictionary_encode()
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / f"{split}.parquet")
    found = opened(tmp_path, image_size=8)
    assert found.train.labels.tolist() == [1, 0, 1]
    assert values(found, "train") == [1, 2, 3]
    with pytest.raises(
        DataError, match=r"row 1: all pictures .* 9 x 20 .*data\.image_size resizes"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("labels", "names", "kind", "told"),
    [
        ([0, 2], ["cat", "dog"], None, r"train\.parquet, row 1: the label must be from 0 to 1"),
        ([0, -2], ["cat", "dog"], None, "must be from 0 to 1, or -1 .* but is -2"),
        ([0, -100], None, None, "row 1: .* a name, or a number from 0, or -1 .* but is -100"),
        (["0", "-2"], None, None, "row 1: .* a number from 0, or -1 .* but is '-2'"),
        ([0.0, 1.0], None, None, "whole numbers or names of classes, but is 'double'; numbers are"),
        ([True, False], None, None, "whole numbers or names of classes, but is 'bool'"),
        (["a", "1.0"], None, None, "row 1: .* is 1.0, as numbers are written where some"),
        ([0, 1], ["cat", "cat"], None, "each class must have a name of its own, but 2 are 'cat'"),
        ([0, 1], ["cat", "\n"], None, "must be printable"),
        ([0, 1], ["cat", 3], None, "no list of texts"),
        ([0, 0], ["cat", "dog"], None, "at least two classes to tell apart.* 'cat'"),
        ([None, None], None, pa.int64(), "teachers learn from labels"),
        ([], None, pa.int64(), "the training split must have pictures"),
    ],
)
def test_labels_that_are_none_are_refused(
    tmp_path: Path, labels: Labels, names: Any, kind: Any, told: str
) -> None:
    hub(tmp_path / "train.parquet", labels, names, kind)
    hub(tmp_path / "test.parquet", [0, 1], names)
    with pytest.raises(DataError, match=told):
        opened(tmp_path)


def test_files_of_two_datasets_do_not_mix(tmp_path: Path) -> None:
    hub(tmp_path / "train.parquet", [0, 1], ["cat", "dog"])
    hub(tmp_path / "test.parquet", [0, 1], ["dog", "cat"])
    with pytest.raises(DataError, match=r"must name the same classes in the same order"):
        opened(tmp_path)
    (tmp_path / "test.parquet").rename(tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"more\.parquet: its name, or a column, must say"):
        opened(tmp_path)


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x" * 99])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "train.parquet"
    hub(path, [0, 1] * 5)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"train\.parquet: must be a Parquet file, but cannot be"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("/etc/motd", "row 1: .* a path below the table's folder, but is '/etc/motd'"),
        ("../secret.png", "row 1: .* but is '../secret.png'"),
        ("", "row 1: .* but is ''"),
        ("nowhere.png", r"nowhere\.png: must be a picture, .* \(there is no such file\)"),
        ("a.csv", r"a\.csv: must be a picture, .* a picture of none of"),
    ],
)
def test_a_path_that_leads_to_no_picture_is_named(tmp_path: Path, cell: str, told: str) -> None:
    names = pictures(tmp_path)
    rows = [(names[0], "a"), (cell, "b"), (names[2], "a"), (names[3], "b")]
    with pytest.raises(DataError, match=told):
        opened(comma(tmp_path / "a.csv", *rows), "csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be a CSV file whose first line names the columns"),
        ("image\na.png\n", "must have one column 'label', but its columns are image"),
        ("a.png,cat\nb.png,dog\n", "must have one column 'image', but its columns are a.png, cat"),
        ("image,image,label\na,b,c\n", "must have one column 'image'"),
        ("image,label\na.png,cat,3\n", "must be a CSV file"),
        ("image,label,split\na.png,cat,holdout\n", "row 0: its split must be one of .* 'holdout'"),
        ("image,label\n\xff.png,cat\n", "must be a CSV file"),
    ],
)
def test_a_csv_file_that_is_none_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"a\.csv.* {told}|a\.csv, {told}"):
        opened(tmp_path, "csv")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (b"", "row 1: must be a picture"),
        (None, "row 1: a picture must be bytes, or a path below the table's folder, but is unset"),
        (b"no picture", r"row 1: must be a picture, .* a picture of none of BMP"),
        (encoded(1, (60, 60))[:90], "row 1: must be a picture, but cannot be read"),
    ],
)
def test_a_cell_that_is_no_picture_is_named(tmp_path: Path, cell: Any, told: str) -> None:
    path = tmp_path / "all.parquet"
    cells = [encoded(0), cell, encoded(2), encoded(3)]
    pq.write_table(pa.table({"image": cells, "label": [0, 0, 1, 1]}), path)
    with pytest.raises(DataError, match=rf"all\.parquet, {told}"):
        opened(path)


def test_a_column_of_numbers_holds_no_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), tmp_path / "all.parquet")
    with pytest.raises(DataError, match=r"'image' must hold pictures .* but is 'int64'"):
        opened(tmp_path)


def test_a_root_is_needed_and_must_hold_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: parquet needs .* KD_RAY_DATA"):
        opened(None)
    with pytest.raises(DataError, match=r"must be a \.csv file or a folder with some"):
        opened(tmp_path, "csv")


def test_tables_in_an_object_store_are_read_like_those_on_a_disk(
    tmp_path: Path, stored_folder: Path
) -> None:
    hub(tmp_path / "train-0.parquet", [0, 1, 0, 1], ["cat", "dog"])
    hub(tmp_path / "test-0.parquet", [0, 1], ["cat", "dog"], first=10)
    names = pictures(tmp_path)
    comma(tmp_path / "train.csv", *((name, str(n % 2)) for n, name in enumerate(names)))
    for path in tmp_path.rglob("*.*"):
        (stored_folder / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
    for kind in ("parquet", "csv"):
        stored = opened(stored_folder, kind)
        assert stored.fingerprint == opened(tmp_path, kind).fingerprint
    with pytest.raises(ConfigError, match="imagefolder must be in a folder of this machine"):
        opened(stored_folder, "imagefolder")
    (stored_folder / "train-0.parquet").write_bytes(b"x" * 99)
    with pytest.raises(DataError, match=r"s3://.*/train-0\.parquet: must be a Parquet file"):
        opened(stored_folder)


def test_a_root_is_the_same_place_for_every_process(
    tmp_path: Path, stored_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, place in (("a/b.csv", tmp_path / "a/b.csv"), (stored_folder, stored_folder)):
        assert str(given_root(DataOptions(name="csv", root=str(root)))) == str(place)
    monkeypatch.setenv("KD_RAY_DATA", str(stored_folder))
    assert str(given_root(DataOptions(name="csv"))) == str(stored_folder)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    hub(tmp_path / "whole.parquet", ["cat", "dog"] * 4)
    rows = zip(pictures(tmp_path), ["cat", "dog"] * 6, strict=True)
    comma(tmp_path / "whole.csv", *rows)
    for kind in ("parquet", "csv"):
        content = bytearray((tmp_path / f"whole.{kind}").read_bytes())
        for _ in range(10):
            damaged, place = bytearray(content), draw.randrange(len(content))
            if draw.random() < 0.7:
                damaged[place] ^= 1 << draw.randrange(8)
            else:
                del damaged[place : place + draw.randrange(1, 40)]
            (tmp_path / f"spoiled.{kind}").write_bytes(damaged)
            try:
                told = str(opened(tmp_path / f"spoiled.{kind}", kind).fingerprint)
            except DataError as error:
                told = str(error)
            assert "\n" not in told
