"""Folders of pictures with something in them that is none, or that is easily misread."""

import itertools
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from damage import BYTES, PLACES, Case
from subjects import RECIPE

SIZE = 8
ENDINGS = (".png", ".jpg", ".PNG", ".tif", ".webp")


def no_pictures(draw: random.Random) -> Mapping[str, Callable[[Path], object]]:
    """What may lie where a picture is meant: its name -> a function that puts it there."""
    from PIL import Image

    def damaged(how: str, kind: str) -> Callable[[Path], object]:
        def put(path: Path) -> None:
            draw_noise(draw).save(path, kind)
            path.write_bytes(BYTES[how](draw, path.read_bytes()))

        return put

    kinds = itertools.product(("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"), BYTES)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    return {
        **{f"{kind}, {how}": damaged(how, kind) for kind, how in kinds},
        **PLACES,
        "one pixel": lambda path: Image.new("RGB", (1, 1)).save(path, "PNG"),
        "a line of pixels": lambda path: Image.new("RGB", (20000, 1)).save(path, "PNG"),
        "a bomb": lambda path: Image.new("1", (20000, 20000)).save(path, "PNG"),
        "PostScript": lambda path: path.write_bytes(script),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
    }


def draw_noise(draw: random.Random) -> Any:
    """A picture of noise, `(9, 9)` RGB."""
    from PIL import Image

    return Image.frombytes("RGB", (9, 9), draw.randbytes(243))


def unusual() -> Mapping[str, tuple[Any, str]]:
    """Pictures of 128 of 255 in modes that have other numbers for it, with their format.

    One is turned by its EXIF orientation, and 128 in its upper half only.
    """
    from PIL import Image

    half = np.full((2 * SIZE, 2 * SIZE), 128)
    turned = Image.fromarray(np.where(np.arange(2 * SIZE) < SIZE, half, 0).astype(np.uint8))
    turned.getexif()[0x0112] = 6
    return {
        "16-bit grey": (Image.fromarray((half * 257).astype(np.uint16)), "PNG"),
        "32-bit grey": (Image.fromarray((half * (2**24 + 2**16)).astype(np.uint32)), "TIFF"),
        "floats": (Image.fromarray((half / 255).astype(np.float32)), "TIFF"),
        "grey": (Image.fromarray(half.astype(np.uint8)), "PNG"),
        "grey with alpha": (Image.new("LA", half.shape, (128, 255)), "PNG"),
        "palette": (Image.new("RGB", half.shape, (128, 128, 128)).quantize(4), "PNG"),
        "CMYK": (Image.new("CMYK", half.shape, (127, 127, 127, 0)), "JPEG"),
        "WebP": (Image.new("RGB", half.shape, (128, 128, 128)), "WEBP"),
        "turned by EXIF": (turned, "JPEG"),
    }


def make_pictures(draw: random.Random, folder: Path) -> Case:
    """A folder of pictures with something in it that is none, or that is easily misread."""
    (folder / "tiny.toml").write_text(RECIPE)
    arguments = ["teach", "tiny.toml", "--local", "--runs", "runs", "--set", "data.fraction=1.0"]
    sets = {"name": "imagefolder", "root": "pictures", "image_size": SIZE}
    arguments += [word for key, value in sets.items() for word in ("--set", f"data.{key}={value}")]
    root = folder / "pictures"
    classes = [root / name for name in ("cat", "dog", "owl")]
    for number, place in itertools.product(range(5), classes):
        place.mkdir(parents=True, exist_ok=True)
        draw_noise(draw).save(place / f"{number}.png")
    victim = draw.choice(classes) / f"{draw.randrange(6)}{draw.choice(ENDINGS)}"
    kind = draw.choice(["folder", "unusual", "none", "none"])
    if kind == "folder":
        how = draw.choice(sorted(FOLDERS))
        FOLDERS[how](root)
        told = "one class was taught" if how == "one class" else ""
        return Case("pictures", how, arguments, lambda: told)
    victim.unlink(missing_ok=True)
    if kind == "unusual":
        how, (picture, form) = draw.choice(list(unusual().items()))
        picture.save(victim, form, exif=picture.getexif())
        told = f"{victim.name}: {how}"
        return Case("pictures", told, arguments, lambda: misread(victim, how))
    how, put = draw.choice(list(no_pictures(draw).items()))
    put(victim)
    return Case("pictures", f"{victim.name}: {how}", arguments)


def misread(path: Path, how: str) -> str:
    """What is wrong with how a picture of `unusual` is read."""
    from kd_ray.datasets.picture import read_picture

    found = read_picture(path, SIZE).astype(int)
    upper, lower = found[: SIZE // 2 - 1], found[SIZE // 2 + 1 :]
    meant = (128, 0) if how == "turned by EXIF" else (128, 128)
    wrong = max(np.abs(upper - meant[0]).max(), np.abs(lower - meant[1]).max()) > 12
    return f"{meant} was read as {upper[0, 0].tolist()}, {lower[0, 0].tolist()}" if wrong else ""


def only_one_class(root: Path) -> None:
    for name in ("dog", "owl"):
        shutil.rmtree(root / name)


FOLDERS: Mapping[str, Callable[[Path], object]] = {
    "one class": only_one_class,
    "an empty class": lambda root: (root / "ant").mkdir(),
    "a class of one picture": lambda root: [
        file.unlink() for file in sorted(root.glob("cat/*"))[1:]
    ],
    "no classes": lambda root: shutil.rmtree(root),
    "train without test": lambda root: (root / "cat").rename(root / "train"),
    "a class that is not UTF-8": lambda root: os.rename(
        root / "cat", os.fsencode(root) + b"/c\xe9t"
    ),
    "a picture that is not UTF-8": lambda root: os.rename(
        next((root / "cat").iterdir()), os.fsencode(root) + b"/cat/\xff.png"
    ),
    "a class with a line break": lambda root: (root / "cat").rename(root / "c\nat"),
    "a class that is a file": lambda root: (root / "ant").write_text("x"),
    "a class that links to itself": lambda root: (root / "ant").symlink_to(root / "ant"),
    "a class that links to its parent": lambda root: (root / "ant").symlink_to(root),
    "a class of a long name": lambda root: (root / "cat").rename(root / ("c" * 255)),
}
"""Damage to a folder of pictures."""
