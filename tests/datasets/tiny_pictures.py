"""Pictures that tests write: of one value, so that what was read says which it was."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, value: int = 100, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flat(value, size).convert(mode).save(path)


def flat(value: int = 100, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A grey picture in RGB."""
    return Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8))


def encoded(value: int = 100, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """The same as a file holds it."""
    file = io.BytesIO()
    flat(value, size).save(file, kind)
    return file.getvalue()
