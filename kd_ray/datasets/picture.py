"""One picture to pixels: the decoder that every reader of pictures shares."""

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from kd_ray.datasets.storage import readable

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What may be decoded, whatever a file's name says: none is a program, as PostScript is."""


def read_picture(
    source: "Path | bytes | Image.Image", size: int | None, place: object = None
) -> Pixels:
    """A picture as `(H, W, 3)` uint8; see `decoded_picture`."""
    return np.asarray(decoded_picture(source, size, place))


def decoded_picture(
    source: "Path | bytes | Image.Image", size: int | None, place: object = None
) -> "Image.Image":
    """A picture upright and RGB, with eight bits a channel.

    With a size it becomes a square of it: the shorter side is resized to it (bilinear,
    antialiased) and the centre is kept. Grey of 16 bits is scaled to 8, what is transparent is
    white, and inks (CMYK) take their share of the light away, whatever colour profile is with them.

    Args:
        source: a file here or in a store, what one holds, or a picture that is open.
        size: side in pixels, or None for the picture's own.
        place: what messages call it; None for the path.

    Raises:
        DataError: it cannot be decoded, or nothing says which of its numbers is white.
    """
    from PIL import Image, ImageOps

    with readable(place or source, "a picture", "replace or remove it"), _opened(source) as picture:
        tags = getattr(picture, "tag_v2", {})  # of a TIFF: bits, and whether black is 0
        deep = picture.mode.startswith("I;16") and tags.get(258, (16,)) == (16,)
        deep = (deep and tags.get(262) != 0) or (picture.mode, picture.format) == ("I", "PPM")
        if picture.mode[0] in "IF" and not deep:
            raise ValueError("its pixels are neither of 8 bits nor of 16 with black as 0")
        upright = ImageOps.exif_transpose(picture)
        if deep:
            grey = (np.asarray(upright).astype(np.int64) + 128) // 257  # 65535 is 255
            upright = Image.fromarray(grey.astype(np.uint8))
        elif upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        upright = upright.convert("RGB")
        if size is not None:
            upright = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
        return upright


def _opened(source: "Path | bytes | Image.Image") -> AbstractContextManager[Any]:
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, Path) and not source.is_file():  # opening a pipe would wait for ever
        raise ValueError("it is no regular file" if source.exists() else "there is no such file")
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is a picture of none of {', '.join(FORMATS)}") from None
