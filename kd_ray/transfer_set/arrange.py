"""Logits from elsewhere in the order of a transfer set's rows, checked while they are read.

They come in the order that suited whoever made them; a shard wants all views of an image together,
and images in the order of the dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_ray.batch import UNLABELLED
from kd_ray.errors import TransferSetError
from kd_ray.transfer_set.columns import first_unfit, largest_logit
from kd_ray.transfer_set.given import Array, GivenArray, GivenLogits
from kd_ray.transfer_set.plan import SplitName

FLOATS = {"float16", "bfloat16", "float32", "float64"}
MOST_TEACHERS = 1000
SUM_TOLERANCE = 1e-3
"""How far from 1 a thousand probabilities in float16 may add up."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """What logits of a split must be of.

    Attributes:
        split: its name.
        labels: of all rows of the dataset's split, `(N,)`; `UNLABELLED` where hidden.
        classes: K.
        views: V.
        dtype: of the stored logits, "float16" or "float32".
        chosen: row numbers that there must be logits of, the others are passed over; None for all
            that there are.
    """

    split: SplitName
    labels: Integers
    classes: int
    views: int
    dtype: str
    chosen: Integers | None = None


@dataclass(frozen=True)
class Arranged:
    """Logits of a split in order.

    Attributes:
        index: row numbers in the dataset's split, `(N,)`, ascending.
        logits: `(N * V, M, K)` of the stored type, views counting fastest.
    """

    index: Integers
    logits: Array


def arrange(given: GivenLogits, wanted: Wanted) -> Arranged:
    """Reads the logits of a split; the guide of this package says how arrays are laid out.

    Raises:
        TransferSetError: they are not of this split's rows and views, or no raw logits.
    """
    split, views = wanted.split, wanted.views
    where, logits = f"{given.where}: {split}", given.arrays[split]
    members = _members(where, logits, wanted)
    index, view = _places(where, given.arrays, wanted)
    _check_labels(where, given.arrays, wanted, index)
    key = index * views + view
    ordered = np.sort(key)
    if (twice := np.flatnonzero(ordered[1:] == ordered[:-1])).size:
        image, number = divmod(int(ordered[twice[0]]), views)
        raise TransferSetError(
            f"{where}: each row must be there once, but index {image}, view {number} is there "
            "twice; leave one of the two out"
        )
    images = _images(where, ordered, wanted)
    places = np.full(len(wanted.labels), -1)  # of an image among those that are kept
    places[images] = np.arange(len(images))
    to = np.where(places[index] < 0, -1, places[index] * views + view)
    arranged = np.empty((len(images) * views, members, wanted.classes), wanted.dtype)
    at, probabilities = 0, True
    for block in logits.blocks():
        rows = block.reshape(-1, members, wanted.classes)
        part = slice(at, at + len(rows))
        _check_finite(where, rows, wanted.dtype, index[part], view[part])
        probabilities = probabilities and _are_probabilities(rows)
        kept = to[part] >= 0
        arranged[to[part][kept]] = rows[kept]
        at = part.stop
    if probabilities:
        raise TransferSetError(
            f"{where}: raw logits are stored, but these are probabilities, as every row is 0 or "
            "more and sums to 1; give their logarithm, of at least 1e-7, say"
        )
    return Arranged(images, arranged)


def _members(where: str, logits: GivenArray, wanted: Wanted) -> int:
    """M, of logits with a shape and a type that logits have."""
    shape, views = logits.shape, wanted.views
    if logits.dtype not in FLOATS:
        raise TransferSetError(
            f"{where}: logits must be floats of 16, 32 or 64 bits, but are {logits.dtype}; "
            "give what the teacher puts out before any choice or rounding"
        )
    if not 2 <= len(shape) <= 4 or shape[-1] != wanted.classes:
        raise TransferSetError(
            f"{where}: logits must be (N, K), (N, M, K) or (N, V, M, K) with K = {wanted.classes} "
            f"classes, but are {shape}; give one logit for each class of the dataset, in its order"
        )
    members = shape[-2] if len(shape) > 2 else 1
    if not 1 <= members <= MOST_TEACHERS or (len(shape) == 4 and shape[1] != views):
        raise TransferSetError(
            f"{where}: logits (N, V, M, K) must be of V = {views} views and of 1 to "
            f"{MOST_TEACHERS} teachers, but are {shape}; set transfer_set.views to their views"
        )
    return members


def _integers(where: str, arrays: Mapping[str, GivenArray], name: str, below: int) -> Integers:
    """An array of one number below `below` for each row of logits."""
    given, rows = arrays[name], arrays[name.partition(".")[0]].shape[0]
    if given.shape != (rows,) or not given.dtype.startswith(("int", "uint")):
        raise TransferSetError(
            f"{where}: {name} must be one integer for each of the {rows} rows of logits, but is "
            f"{given.dtype} {given.shape}; give it in the order of the logits"
        )
    values = np.concatenate([np.empty(0, np.int64), *given.blocks()])
    least = UNLABELLED if name.endswith(".label") else 0
    if rows and not least <= int(values.min()) <= int(values.max()) < below:
        wrong = values.max() if values.max() >= below else values.min()
        raise TransferSetError(
            f"{where}: {name} must be from {least} to {below - 1}, but got {int(wrong)}; "
            "number rows as the dataset does, and views and classes from 0"
        )
    return values.astype(np.int64)


def _places(
    where: str, arrays: Mapping[str, GivenArray], wanted: Wanted
) -> tuple[Integers, Integers]:
    """Index and view of each row of logits, where those of all views lie one after the other."""
    split, views, shape = wanted.split, wanted.views, arrays[wanted.split].shape
    rows, together = len(wanted.labels), len(shape) == 4
    named = f"{split}.view" in arrays
    if named and together:
        raise TransferSetError(
            f"{where}: (N, V, M, K) has all views of an image in order, but there is {split}.view "
            "as well; leave it out"
        )
    if views > 1 and not (named or together):
        raise TransferSetError(
            f"{where}: each image has views 0 to {views - 1}, but rows do not say which they are; "
            f"add {split}.view, or give logits (N, V, M, K)"
        )
    most = rows if together else rows * views
    if shape[0] > most:
        raise TransferSetError(
            f"{where}: there must be at most {most} rows, for {rows} images of the split, but "
            f"there are {shape[0]}; give each image and view once"
        )
    if f"{split}.index" in arrays:
        index = _integers(where, arrays, f"{split}.index", rows)
    elif (named and views > 1) or shape[0] != rows:
        raise TransferSetError(
            f"{where}: without {split}.index, logits must be of the {rows} images of the split in "
            f"order, but there are {shape[0]} rows; add the row number of each"
        )
    else:
        index = np.arange(rows)
    if together:
        return np.repeat(index, views), np.tile(np.arange(views), len(index))
    if not named:
        return index, np.zeros_like(index)
    return index, _integers(where, arrays, f"{split}.view", views)


def _check_labels(
    where: str, arrays: Mapping[str, GivenArray], wanted: Wanted, index: Integers
) -> None:
    """Compares labels that came along with those of the dataset: rows that are off by one show."""
    name = f"{wanted.split}.label"
    if name not in arrays:
        return
    given = _integers(where, arrays, name, wanted.classes)
    given = np.repeat(given, len(index) // max(1, len(given)))
    here = wanted.labels[index]
    wrong = np.flatnonzero((given != here) & (given != UNLABELLED) & (here != UNLABELLED))
    if wrong.size:
        row = wrong[0]
        raise TransferSetError(
            f"{where}: labels must be those of the dataset, but {wrong.size} are not, first that "
            f"of index {index[row]}, which is {given[row]} there and {here[row]} in the dataset; "
            "number rows as the dataset does"
        )


def _images(where: str, ordered: Integers, wanted: Wanted) -> Integers:
    """Row numbers of the images to keep, `(N,)` ascending, each with all of its views."""
    views = wanted.views
    images, counts = np.unique(ordered // views, return_counts=True)
    if (short := np.flatnonzero(counts < views)).size:
        image = int(images[short[0]])
        there = set((ordered[ordered // views == image] % views).tolist())
        raise TransferSetError(
            f"{where}: each image must have views 0 to {views - 1}, but index {image} has no view "
            f"{min(set(range(views)) - there)}; add it, or lower transfer_set.views"
        )
    if wanted.chosen is not None:
        missing = np.setdiff1d(wanted.chosen, images)
        if missing.size:
            advice = "leave transfer_set.fraction and classes out, or add them"
            if wanted.split != "train":
                advice = "add them, or leave the split out"
            raise TransferSetError(
                f"{where}: there must be logits of {len(wanted.chosen)} images, but {missing.size} "
                f"are missing, first that of index {missing[0]}; {advice}"
            )
        images = wanted.chosen
    if not len(images):
        raise TransferSetError(f"{where}: there must be logits of one row at least; add some")
    return images


def _check_finite(where: str, rows: Array, dtype: str, index: Integers, view: Integers) -> None:
    unfit = first_unfit(rows, dtype)
    if unfit is None:
        return
    row, member, output = unfit
    value, limit = float(rows[unfit]), largest_logit(dtype, rows)
    place = f"(index {index[row]}, view {view[row]}, teacher {member}, class {output})"
    if np.isfinite(value):
        rule = f'{dtype} logits must be within ±{limit:g}, but got {value:g}; set dtype = "float32"'
    else:
        rule = f"logits must be finite, but got {value}; the logarithm of 0 is clipped at 1e-7, say"
    raise TransferSetError(f"{where} {place}: {rule}")


def _are_probabilities(rows: Array) -> bool:
    sums = rows.sum(axis=-1, dtype=np.float64)
    return bool((rows >= 0).all() and (np.abs(sums - 1) < SUM_TOLERANCE).all())
