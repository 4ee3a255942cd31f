"""Small colour pictures in folders, a class each: three shades and a stripe tell it, with noise."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def pictures(folder: Path, *, classes: int, train: int, test: int) -> None:
    """Writes so many pictures of each class into `train/CLASS` and `test/CLASS`."""
    draw = np.random.default_rng(7)
    for split, count in (("train", train), ("test", test)):
        for number in range(classes):
            home = folder / split / f"class-{number}"
            home.mkdir(parents=True)
            for place in range(count):
                pixels = draw.integers(0, 120, (SIDE, SIDE, 3))
                pixels[:, :, number % 3] += 90
                pixels[number * 3 : number * 3 + 3] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(home / f"{place}.png")
