"""Logits in a file of npz, safetensors or Parquet: opened here, and read piece by piece later.

Nothing is ever unpickled, and sizes are known before anything large is read.
"""

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from kd_ray.errors import TransferSetError
from kd_ray.files import check_regular, local_copies, sha256_of
from kd_ray.transfer_set.given import (
    Array,
    GivenArray,
    GivenLogits,
    as_numpy,
    check_names,
    parts,
    reading,
    slices,
)
from kd_ray.transfer_set.logits_parquet import parquet_logits
from kd_ray.transfer_set.plan import IMPORTED

SAFETENSORS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
SAFETENSORS |= {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


@contextlib.contextmanager
def open_logits(path: Path) -> Iterator[GivenLogits]:
    """The logits in a file, or in a folder of Parquet files; they can be read within the block.

    Raises:
        TransferSetError: there is none, it is of no such format, or it is damaged.
    """
    with _files(path) as files:
        with reading(path):
            arrays = _opener(path, files[0])(files)
            sha256 = _sha256(path, files)
        check_names(str(path), arrays)
        model = {"name": IMPORTED, "file": path.absolute().name}
        yield GivenLogits(str(path), model, sha256, arrays)


def logits_sha256(path: Path) -> str:
    """The sha256 of a file; of a folder of Parquet files that of their names and hashes.

    Raises:
        TransferSetError: there is none.
    """
    with _files(path) as files, reading(path):
        return _sha256(path, files)


def _sha256(path: Path, files: Sequence[Path]) -> str:
    if not path.is_dir():
        return sha256_of(files[0])
    lines = [f"{file.name} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def _files(path: Path) -> Iterator[list[Path]]:
    """The files at a path as local ones."""
    folder, names = path.parent, [path.name] if path.exists() else []
    if path.is_dir():
        folder, names = path, sorted(file.name for file in path.glob("*.parquet"))
    if not names:
        raise TransferSetError(
            f"{path}: logits must be a .npz, .safetensors or .parquet file, or a folder with such "
            "Parquet files, but there is none; correct the path"
        )
    with local_copies(folder, names) as copies:
        yield [copies / name for name in names]


def _opener(path: Path, file: Path) -> Callable[[Sequence[Path]], dict[str, GivenArray]]:
    openers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": parquet_logits}
    if (suffix := file.suffix.lower()) not in openers:
        raise TransferSetError(
            f"{path}: logits must be a .npz, .safetensors or .parquet file, but its name ends in "
            f"{suffix or 'none of these'}; save them as one"
        )
    return openers[suffix]


def _npz(files: Sequence[Path]) -> dict[str, GivenArray]:
    """By member: headers are read now, an array whole when it is asked for."""
    (path,) = files
    check_regular(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = npy.read_magic(stream)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"its member {member} has version {version}")
                old = version == (1, 0)
                header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
                shape, _, dtype = header(stream)
            if dtype.hasobject:
                raise ValueError(f"its member {member} is a pickle, which may hold code")
            name = member.removesuffix(".npy")
            arrays[name] = GivenArray(shape, dtype.name, partial(_npz_blocks, path, name))
    return arrays


def _npz_blocks(path: Path, name: str) -> Iterator[Array]:
    with reading(path), np.load(path, allow_pickle=False) as archive:
        yield from parts(archive[name])


def _safetensors(files: Sequence[Path]) -> dict[str, GivenArray]:
    """By slice."""
    (path,) = files
    check_regular(path)
    arrays = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            dtype = SAFETENSORS.get(part.get_dtype(), part.get_dtype())
            shape = tuple(part.get_shape())
            arrays[name] = GivenArray(shape, dtype, partial(_tensor_blocks, path, name, shape))
    return arrays


def _tensor_blocks(path: Path, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
    with reading(path), safe_open(path, framework="pt") as file:
        tensor = file.get_slice(name)
        for part in slices(shape, 8):
            yield as_numpy(tensor[part])
