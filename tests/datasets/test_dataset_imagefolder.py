import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pictures import save

from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("no_root")


def opened(root: Path | None, **options: Any) -> Dataset:
    values = {"name": "imagefolder", "image_size": 8, "root": None if root is None else str(root)}
    return open_dataset(DataOptions(**(values | options)))


def house(root: Path) -> Path:
    """Two classes; the red value of a picture says which it is."""
    for split, count in (("train", 5), ("test", 2)):
        for number, name in enumerate(("17", "71")):
            for picture in range(count):
                save(root / split / name / f"{picture}.png", 100 * number + picture)
    return root


def test_imagefolder_reads_both_splits_sorted_by_path(tmp_path: Path) -> None:
    found = opened(house(tmp_path))
    assert found.class_names == ("17", "71")
    assert found.image_shape == (3, 8, 8)
    assert found.train.labels.tolist() == [0] * 5 + [1] * 5
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    reds = found.train.images[:, 0, 0, 0].tolist()
    assert reds == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]


def test_imagefolder_takes_its_root_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_RAY_DATA", str(house(tmp_path)))
    assert opened(None).train.rows == 10


def test_imagefolder_without_splits_carves_a_fixed_fifth_of_every_class(tmp_path: Path) -> None:
    for name, count in (("cat", 20), ("dog", 10), ("emu", 2)):
        for picture in range(count):
            save(tmp_path / name / f"{picture:02d}.png", picture)
    one, other = opened(tmp_path), opened(tmp_path, seed=3, validation=5)
    assert one.class_names == ("cat", "dog", "emu")
    assert torch.bincount(one.test.labels).tolist() == [4, 2, 1]
    assert torch.bincount(one.train.labels).tolist() == [16, 8, 1]
    assert other.test.fingerprint == one.test.fingerprint


def test_imagefolder_without_splits_needs_two_pictures_of_a_class(tmp_path: Path) -> None:
    for name, count in (("cat", 2), ("dog", 1)):
        for picture in range(count):
            save(tmp_path / name / f"{picture}.png")
    with pytest.raises(DataError, match="class dog must have at least two pictures"):
        opened(tmp_path)


def test_imagefolder_refuses_a_class_folder_whose_name_is_not_text(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(house(tmp_path) / split / os.fsdecode(b"caf\xe9") / "0.png")
    with pytest.raises(DataError, match=r"must be printable UTF-8, but got 'caf\\udce9'"):
        opened(tmp_path)


def test_imagefolder_refuses_a_single_class(tmp_path: Path) -> None:
    for picture in range(5):
        save(tmp_path / "cat" / f"{picture}.png")
    with pytest.raises(DataError, match=r"at least two classes to tell apart.* 'cat'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [lambda content: b"", lambda content: content[:60], lambda content: b"garbage" * 10],
    ids=["empty", "truncated", "garbage"],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_imagefolder_names_the_picture_that_cannot_be_decoded(
    tmp_path: Path, spoil: Any, suffix: str
) -> None:
    bad = house(tmp_path) / "train" / "71" / f"bad.{suffix}"
    save(bad, size=(60, 60))
    bad.write_bytes(spoil(bad.read_bytes()))
    with pytest.raises(DataError, match=rf"71/bad\.{suffix}: must be a picture"):
        opened(tmp_path)


def test_imagefolder_refuses_a_bomb_of_a_picture(tmp_path: Path) -> None:
    bad = house(tmp_path) / "train" / "71" / "bomb.png"
    content = bytearray((tmp_path / "train" / "71" / "0.png").read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2  # the width and height of the header
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    bad.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"bomb\.png: must be a picture"):
        opened(tmp_path)


def test_imagefolder_needs_a_root() -> None:
    with pytest.raises(ConfigError, match=r"data\.root: imagefolder needs .* KD_RAY_DATA"):
        opened(None)


def test_imagefolder_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: must be a folder"):
        opened(tmp_path / "nowhere")


def test_imagefolder_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold class folders"):
        opened(tmp_path)


def test_imagefolder_refuses_a_class_without_pictures(tmp_path: Path) -> None:
    (house(tmp_path) / "train" / "99").mkdir()
    with pytest.raises(DataError, match=r"train: must hold class folders .* 99 has none"):
        opened(tmp_path)


def test_imagefolder_refuses_splits_with_different_classes(tmp_path: Path) -> None:
    save(house(tmp_path) / "train" / "99" / "0.png")
    with pytest.raises(DataError, match="only one of them has 99"):
        opened(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_imagefolder_refuses_one_split_without_the_other(tmp_path: Path, split: str) -> None:
    save(tmp_path / split / "cat" / "0.png")
    with pytest.raises(DataError, match="only one of the two is there"):
        opened(tmp_path)


def test_imagefolder_keeps_classes_by_name(tmp_path: Path) -> None:
    save(house(tmp_path) / "train" / "99" / "0.png")
    save(tmp_path / "test" / "99" / "0.png")
    found = opened(tmp_path, classes=["99", "17"])
    assert found.class_names == ("17", "99")
    assert torch.bincount(found.train.labels).tolist() == [5, 1]


def test_imagefolder_takes_pictures_without_labels_for_training_alone(tmp_path: Path) -> None:
    plain = opened(house(tmp_path))
    for number in range(3):
        save(tmp_path / "unlabelled" / "deep" / f"{number}.png", 200 + number)
    found = opened(tmp_path)
    assert found.train.labels.tolist() == [*plain.train.labels.tolist(), -1, -1, -1]
    assert found.train.images[-3:, 0, 0, 0].tolist() == [200, 201, 202]
    assert found.test.fingerprint == plain.test.fingerprint
    carved = tmp_path / "train"
    plain = opened(carved)
    (tmp_path / "unlabelled").rename(carved / "unlabelled")
    found = opened(carved)
    assert found.class_names == plain.class_names
    assert found.train.labels.tolist() == [*plain.train.labels.tolist(), -1, -1, -1]
    assert found.test.fingerprint == plain.test.fingerprint


def test_imagefolder_without_a_size_needs_pictures_of_one_size(tmp_path: Path) -> None:
    assert opened(house(tmp_path), image_size=None).image_shape == (3, 8, 8)
    save(tmp_path / "test" / "71" / "9.png", size=(10, 8))
    with pytest.raises(DataError, match=r"71/9\.png: all pictures must .* 8 x 8 .*is 10 x 8"):
        opened(tmp_path, image_size=None)
