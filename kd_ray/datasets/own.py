"""A user's own function as a dataset: what it may answer with, and what of that is believed.

It answers with a `Dataset`, or with ordinary torch datasets of (picture or tensor, label).
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import call_problems
from kd_ray.config import DataOptions
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.labels import Label, Place, check_names
from kd_ray.datasets.listed import (
    Listed,
    Picture,
    check_rows,
    numbered,
    pixels_of,
    with_pixels,
)
from kd_ray.errors import ConfigError, DataError, shown
from kd_ray.own_code import explained, imported

READ_TWICE = 8
"""Rows of a torch dataset that are read again, to see whether they are drawn anew each time."""

ANSWERS = (
    "must return a kd_ray.Dataset, or torch datasets of (picture, label) as (train, test) or as "
    '{"train": ..., "test": ..., "classes": [...]}'
)


def own_problems(where: str, options: DataOptions) -> list[str]:
    """What is wrong with a function of the user's own and its options, at a place of a recipe."""
    try:
        function = imported(options.name)
        if not callable(function):
            return [f"{where}.name: {options.name} must be a function, but is {_kind(function)}"]
        with explained(options.name):
            return call_problems(f"{where}.options", function, options.options or {})
    except ConfigError as error:
        return [f"{where}.name: {error}"]


def read_own(options: DataOptions) -> Dataset:
    """The dataset that a function answers with; `data.options` are its arguments.

    A picture is one of Pillow's, or a tensor `(C, H, W)` of uint8 or of floats from 0 to 1, which
    become the nearest of 256 levels. A label is a whole number, None or -1 where it is not known.
    Names of classes are the answer's or the training dataset's `classes`, else numbers. Without a
    test dataset a fixed fifth of every class becomes the test split.

    Raises:
        ConfigError: the function or a dataset raises something; with its file and line.
        DataError: it answers with something else.
    """
    name, size = options.name, options.image_size
    with explained(name):
        answer = imported(name)(**(options.options or {}))
    if isinstance(answer, Dataset):
        return _checked(answer, options)
    if isinstance(answer, tuple) and len(answer) == 2:
        answer = dict(zip(("train", "test"), answer, strict=True))
    if not isinstance(answer, Mapping) or "train" not in answer:
        raise DataError(f"{name}: {ANSWERS}, but returned {_kind(answer)}; correct it")
    if odd := set(answer) - {"train", "test", "classes"}:
        raise DataError(f"{name}: {ANSWERS}, but returned {shown(odd.pop())} as well; leave it out")
    train = _listed(name, "train", answer["train"], size)
    test = _listed(name, "test", answer["test"], size) if "test" in answer else None
    with explained(name):
        names = answer.get("classes", getattr(answer["train"], "classes", None))
    classes = None if names is None else _names(name, names)
    check_rows(name, train, test)
    images = pixels_of(train, test, size)  # labels come with them
    return with_pixels(name, numbered(name, train, test, classes), images)


def _kind(value: object) -> str:
    return f"{'an' if (kind := type(value).__name__)[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _names(where: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where}: classes must be a list of texts, but is {shown(names)}; correct it"
        )
    check_names(where, names)
    return tuple(names)


def _listed(name: str, split: str, dataset: Any, size: int | None) -> Listed:
    """The rows of a torch dataset; their labels are there when the pictures were taken."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{name}: {split} must be a torch dataset with a length and numbered rows, but is "
            f"{_kind(dataset)}; {ANSWERS}"
        )
    with explained(name):
        places = [Place(f"{name}: {split}", row) for row in range(len(dataset))]
    labels: list[Label] = []

    def pictures() -> Iterator[Picture]:
        for place in places:
            picture, label = _row(name, place, dataset, size)
            again = _row(name, place, dataset, size) if place.number < READ_TWICE else None
            if again and not (_equal(picture, again[0]) and label == again[1]):
                raise DataError(
                    f"{place}: must be the same each time, as teacher and student see it at "
                    "different times, but is not; leave random changes to augment in the recipe"
                )
            labels.append(label)
            yield picture

    return Listed(places, labels, pictures())


def _row(name: str, place: Place, dataset: Any, size: int | None) -> tuple[Picture, Label]:
    with explained(name):
        row = dataset[place.number]
    if not isinstance(row, tuple | list) or len(row) != 2:
        raise DataError(f"{place}: must be (picture, label), but is {_kind(row)}; correct it")
    return _picture(place, row[0], size), _label(place, row[1])


def _equal(one: Any, other: Any) -> bool:
    """Whether two pictures have the same pixels."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)  # Pillow compares pixels, too


def _picture(place: Place, picture: Any, size: int | None) -> Picture:
    """A picture of Pillow's as it is, or pixels `(C, H, W)` as uint8."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, Tensor):
        raise DataError(
            f"{place}: a picture must be one of Pillow's or a tensor, but is {_kind(picture)}; "
            "convert it"
        )
    pixels = picture.detach().cpu()
    shape = tuple(pixels.shape)
    if pixels.ndim != 3 or 0 in shape or shape[2] <= 4 < shape[0]:
        raise DataError(
            f"{place}: a tensor must have the shape (channels, height, width), but has {shape}; "
            "permute it"
        )
    if size is not None:
        raise DataError(
            f"{place}: data.image_size goes with pictures of Pillow's, but this is a tensor; leave "
            "image_size out, and resize tensors in your function"
        )
    if pixels.is_floating_point() and bool(((pixels >= 0) & (pixels <= 1)).all()):
        return (pixels.double() * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        floats = pixels.is_floating_point()
        reach = f" from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}" if floats else ""
        raise DataError(
            f"{place}: a tensor must be uint8, or floats from 0 (black) to 1, but is "
            f"{_tensor(pixels)}{reach}; leave normalization to kd-ray, which does it after its own "
            "augmentations"
        )
    return pixels


def _label(place: Place, label: Any) -> Label:
    if label is None:
        return None
    if isinstance(label, Tensor) and label.ndim == 0 and label.dtype != torch.bool:
        label = label.item()
    try:
        number = operator.index(label)  # of numpy's integers, too; a bool has one as well
    except TypeError:
        number = None
    if number is None or isinstance(label, bool):
        raise DataError(
            f"{place}: a label must be a whole number, or None where it is not known, but is "
            f"{shown(label)}; convert it"
        )
    return None if number == UNLABELLED else number


def _checked(dataset: Dataset, options: DataOptions) -> Dataset:
    """A `Dataset` that somebody made, after everything that its readers hold to be true."""
    name = options.name
    if options.image_size is not None:
        raise DataError(
            f"{name}: data.image_size goes with pictures, but returned is a kd_ray.Dataset of "
            "pixels; leave image_size out"
        )
    names = _names(name, dataset.class_names)
    splits = {key: getattr(dataset, key) for key in ("train", "validation", "test")}
    for key, split in splits.items():
        where = f"{name}: {key}"
        if not isinstance(split, Split) or not _is_split(split.images, split.labels):
            got = _kind(split)
            if isinstance(split, Split):
                got = f"{_tensor(split.images)} and {_tensor(split.labels)}"
            raise DataError(
                f"{where} must be a kd_ray.Split of images (N, C, H, W) uint8 and labels (N,) "
                f"int64 on the CPU, but is {got}; convert it"
            )
        shapes = [tuple(each.images.shape[1:]) for each in (dataset.train, split)]
        if shapes[0] != shapes[1] or (not split.rows and key != "validation"):
            raise DataError(
                f"{where} must have images, of the shape of the training ones, {shapes[0]}, but "
                f"has {split.rows} of the shape {shapes[1]}; correct it"
            )
        least = UNLABELLED if key == "train" else 0
        wrong = (split.labels < least) | (split.labels >= len(names))
        if (rows := wrong.nonzero().flatten()).numel():
            raise DataError(
                f"{Place(where, int(rows[0]))}: a label must be from {least} to {len(names) - 1}, "
                f"but is {int(split.labels[rows[0]])}; correct it (-1, for none, is for train)"
            )
    if options.validation and dataset.validation.rows:
        raise DataError(
            f"{name}: has {dataset.validation.rows} validation rows of its own, so data.validation "
            "must be 0; leave it out"
        )
    train, validation, test = (
        Split(key, split.images.contiguous(), split.labels) for key, split in splits.items()
    )
    return Dataset(name, names, train, validation, test)


def _is_split(images: Any, labels: Any) -> bool:
    return (
        isinstance(images, Tensor)
        and isinstance(labels, Tensor)
        and (images.ndim, images.dtype, images.device.type) == (4, torch.uint8, "cpu")
        and (labels.ndim, labels.dtype, labels.device.type) == (1, torch.int64, "cpu")
        and len(images) == len(labels)
    )


def _tensor(value: Any) -> str:
    """What a value is, as messages say it."""
    if not isinstance(value, Tensor):
        return _kind(value)
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}"
