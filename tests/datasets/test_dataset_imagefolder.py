import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.datasets.picture import read_picture
from kd_ray.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KD_RAY_DATA", raising=False)


def opened(root: Path | None, **options: Any) -> Dataset:
    values = {"name": "imagefolder", "image_size": 8, "root": None if root is None else str(root)}
    return open_dataset(DataOptions(**(values | options)))


def save(path: Path, value: int = 100, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_read_picture_makes_every_format_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if (suffix, mode) == ("jpg", "1"):
        mode = "L"
    save(path, 255, (20, 10), mode)
    pixels = read_picture(path, 8)
    assert pixels.shape == (8, 8, 3)
    assert int(pixels.min()) >= 250


def test_read_picture_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", 8), pixels)


@pytest.mark.parametrize("wide", [True, False])
def test_read_picture_keeps_the_centre_of_oblong_pictures(tmp_path: Path, wide: bool) -> None:
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    pixels = pixels if wide else pixels.transpose(1, 0, 2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 8)
    assert int(found[2:6, 2:6].min()) == 200
    assert int(found.min()) > 100  # the black sides are cut off, all but their smear


def test_read_picture_averages_what_it_shrinks(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 8).astype(int)
    assert abs(found - 127).max() <= 16  # nearest or plain bilinear would give 0 or 255


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_read_picture_scales_grey_of_16_bits(tmp_path: Path, suffix: str) -> None:
    values = np.array([0, 128, 129, 257, 1000, 32896, 65406, 65535], np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + np.tile(values, (8, 1)).astype(">u2").tobytes())
    else:
        Image.fromarray(np.tile(values, (8, 1))).save(path)
    assert read_picture(path, 8)[0, :, 0].tolist() == [0, 0, 1, 1, 4, 128, 254, 255]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_read_picture_refuses_numbers_that_nothing_says_the_white_of(
    tmp_path: Path, kind: type[Any]
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.eye(8, dtype=kind)).save(path)
    with pytest.raises(DataError, match=r"a\.tif: must be a picture.*of 16 with black as 0"):
        read_picture(path, 8)


def test_read_picture_refuses_16_bits_whose_white_is_0(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.eye(8, dtype=np.uint16)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # photometric: black is 0
    content[at + 8] = 0
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="black as 0"):
        read_picture(path, 8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_read_picture_turns_a_picture_as_its_camera_says(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8] = 255  # the left half is white
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    found = read_picture(tmp_path / f"a.{suffix}", 16)
    assert int(found[:6].min()) > 250
    assert int(found[10:].max()) < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_read_picture_shows_what_is_transparent_as_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8, 3] = 255  # the left half is black, the right one is not there
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 16)
    assert found[:, :8].max() == 0
    assert found[:, 8:].min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_read_picture_keeps_the_colours_of_every_opaque_mode(tmp_path: Path, mode: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    assert np.array_equal(read_picture(path, 16), pixels)


def test_read_picture_neither_waits_for_a_pipe_nor_runs_postscript(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: .*it is no regular file"):
        read_picture(tmp_path / "pipe.png", 8)
    program = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "program.jpg").write_text(program)
    with pytest.raises(DataError, match="a picture of none of BMP, JPEG"):
        read_picture(tmp_path / "program.jpg", 8)


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
