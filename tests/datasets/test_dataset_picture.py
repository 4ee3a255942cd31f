"""Laws of the one decoder: every mode of a picture is read right, or refused by name."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import encoded, flat, save

from kd_ray.datasets.picture import read_picture
from kd_ray.errors import DataError


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


def inks(values: tuple[int, ...], kind: str) -> bytes:
    """A picture of one mixture of cyan, magenta, yellow and black, as a file holds it."""
    file = io.BytesIO()
    options = {"quality": 100} if kind == "JPEG" else {}
    Image.new("CMYK", (16, 16), values).save(file, kind, **options)
    return file.getvalue()


def without_adobes_mark(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return jpeg[:start] + jpeg[end:]


@pytest.mark.parametrize(
    ("values", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((51, 102, 0, 51), (163, 122, 204)),  # (1 - ink) (1 - black)
    ],
)
def test_read_picture_of_inks_has_the_colour_that_viewers_show(
    values: tuple[int, ...], colour: tuple[int, ...]
) -> None:
    jpeg = inks(values, "JPEG")  # Adobe's way: inverted, with a mark that says how
    assert b"Adobe" in jpeg
    for content in (inks(values, "TIFF"), jpeg, without_adobes_mark(jpeg)):
        found = read_picture(content, None)[8, 8].astype(int)
        assert abs(found - colour).max() <= 1


def test_read_picture_of_inks_that_are_stored_as_brightness_and_colour() -> None:
    """Adobe's YCCK: what is stored inverted are the red, green and blue that are made of it."""
    red = Image.new("RGB", (1, 1), (255, 0, 0)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(red, tuple)
    jpeg = bytearray(inks((*(255 - value for value in red), 0), "JPEG"))
    jpeg[jpeg.index(b"Adobe") + 11] = 2  # the transform
    found = read_picture(bytes(jpeg), None)[8, 8].astype(int)
    assert abs(found - (0, 255, 255)).max() <= 2


def test_read_picture_scales_colours_of_16_bits() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 257 * 128, 257) * 8 for _ in range(8))

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0))
    content = (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert read_picture(content, None)[0, 0].tolist() == [255, 128, 1]


def test_read_picture_of_a_file_of_bytes_and_of_an_open_picture_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(77, (16, 8)))
    for source in (tmp_path / "a.png", encoded(77, (16, 8)), flat(77, (16, 8))):
        assert read_picture(source, None).shape == (8, 16, 3)
        assert np.array_equal(read_picture(source, 4), np.full((4, 4, 3), 77))


def test_read_picture_turns_an_open_picture_too() -> None:
    picture = Image.fromarray(np.repeat(np.uint8([[255] * 4 + [0] * 4]), 8, 0))
    picture.getexif()[0x0112] = 6
    assert read_picture(picture, None)[:, 0, 0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize("mode", ["F", "I", "La"])
def test_read_picture_refuses_an_open_picture_of_a_mode_that_has_no_meaning(mode: str) -> None:
    with pytest.raises(DataError, match="my list, row 3: must be a picture"):
        read_picture(Image.new(mode, (8, 8)), None, "my list, row 3")
