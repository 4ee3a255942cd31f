"""Logits that come from elsewhere, as named arrays that have not been read yet.

Whatever the format, there is an array `SPLIT`, and beside it may be `SPLIT.index`, `SPLIT.view` and
`SPLIT.label`. What they are logits of is for `arrange` to check.
"""

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from torch import Tensor

from kd_ray.catalog import suggestion
from kd_ray.errors import TransferSetError
from kd_ray.files import reason_of
from kd_ray.transfer_set.plan import IMPORTED, SPLITS

BLOCK_BYTES = 16 * 2**20
BESIDE = ("index", "view", "label")
NAMES = [name for split in SPLITS for name in (split, *(f"{split}.{each}" for each in BESIDE))]
"""What the arrays may be called."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GivenArray:
    """An array that has not been read yet.

    Attributes:
        shape: as its file states it.
        dtype: name of its type, such as float32.
        blocks: reads it from the beginning, one part of the first axis after the other.
    """

    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[], Iterator[Array]]


@dataclass(frozen=True)
class GivenLogits:
    """Everything that was given.

    Attributes:
        where: what messages call it.
        model: what a transfer set says of the teacher, see `TeacherIdentity`.
        sha256: of the file, or of the arrays.
        arrays: by their names, which are among `NAMES`.
    """

    where: str
    model: dict[str, Any]
    sha256: str
    arrays: Mapping[str, GivenArray]


def logits_in_arrays(arrays: Mapping[str, Any]) -> GivenLogits:
    """The logits in numpy arrays or torch tensors; see `GivenLogits` for their names.

    Raises:
        TransferSetError: an array has another name.
    """
    plain = {name: as_numpy(value) for name, value in arrays.items()}
    digest = hashlib.sha256()
    for name, value in sorted(plain.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape};".encode())
        digest.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else b"")
    given = {name: _in_memory(value) for name, value in plain.items()}
    check_names("logits", given)
    return GivenLogits("logits", {"name": IMPORTED}, digest.hexdigest(), given)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says in one sentence that a file is damaged, or not what its name says."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, SafetensorError, pa.ArrowException),
        *(OSError, ValueError, KeyError, NotImplementedError, RuntimeError),
    ) as problem:
        reason = " ".join(reason_of(problem).split())  # some libraries write paragraphs
        raise TransferSetError(
            f"{path}: logits must be readable as {path.suffix.lower() or 'Parquet'}, but "
            f"{reason}; save them anew"
        ) from problem


def check_names(where: str, arrays: Mapping[str, object]) -> None:
    """Raises `TransferSetError` where names are not as the module says, or train is missing."""
    for name in arrays:
        if name not in NAMES:
            raise TransferSetError(
                f"{where}: arrays are named by split, but one is called {name!r}; "
                f"{suggestion(name, NAMES)}"
            )
        split = name.partition(".")[0]
        if split not in arrays:
            raise TransferSetError(
                f"{where}: there must be logits for {name!r}, but there is no array {split!r}; "
                "add it"
            )
    if "train" not in arrays:
        raise TransferSetError(
            f"{where}: there must be logits of training rows, but there are none; name their array "
            "'train'"
        )


def as_numpy(value: Any) -> Array:
    """The array of a tensor on any device, or of what numpy takes; bfloat16 becomes float32."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    array: Array = np.asarray(value)
    return array


def _in_memory(array: Array) -> GivenArray:
    return GivenArray(array.shape, array.dtype.name, partial(parts, array))


def parts(array: Array) -> Iterator[Array]:
    """An array in memory as `GivenArray.blocks` gives it."""
    for part in slices(array.shape, array.dtype.itemsize):
        yield array[part]


def slices(shape: Sequence[int], item_bytes: int) -> Iterator[slice]:
    """The first axis in pieces of some megabytes."""
    row_bytes = item_bytes * int(np.prod(shape[1:], dtype=object))
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))
