"""A checkpoint: weights and optimizer as safetensors, and a `meta.json` that says all about them.

Nothing is pickled. Random numbers need no state: every epoch derives its seeds from the recipe's
seed and the epoch's number, so a resumed run draws what an uninterrupted one would have drawn.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from kd_ray.errors import CheckpointError
from kd_ray.files import (
    committed_folder,
    is_stored,
    local_copy,
    read_json,
    reason_of,
    remove_drafts,
    remove_folder,
    ruled,
    sha256_of,
    write_json,
)
from kd_ray.result import EpochLine
from kd_ray.training.progress import EpochPart, Training
from kd_ray.versions import versions

WEIGHTS, OPTIMIZER, META = "model.safetensors", "optimizer.safetensors", "meta.json"
FORMAT_VERSION: Final = 1
MEND = "remove this epoch's folder and run the same again to go on from an earlier one"
UNDER_WAY = "under-way"
"""Folder of the checkpoint of an epoch that a notice came in the middle of, beside the epochs'."""


Side = Annotated[int, Field(gt=0, le=2**16)]


class ModelInput(BaseModel):
    """What a model is fed: images of `shape` (C, H, W), as `(x / 255 - mean) / std` per channel."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shape: tuple[Side, Side, Side]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _has_name(model: Mapping[str, Any]) -> bool:
    return isinstance(model.get("name"), str)


class Meta(BaseModel):
    """The description that rebuilds a model and lets its training go on.

    Attributes:
        kind: what it is, as `result` says it of the same artefact.
        epoch: finished epochs.
        model: catalogue name under `name`, and the entry's options.
        quantizer: `[student.quantizer]`, or None of a float model.
        input: what the model is fed.
        class_names: K names in the order of the outputs, of a specialist's network.
        special: of a specialist, the numbers of its classes; its other classes are one output.
        recipe: the resolved recipe.
        identity: what determined the weights, dotted key to value; a resumed run must agree.
        parents: artefact -> sha256.
        progress: counters that the loop carries from epoch to epoch.
        history: one record of metrics for each finished epoch.
        part: of the next epoch that is done already, see `progress.EpochPart`.
        files: name -> sha256.
        versions: of the packages that made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    kind: str
    epoch: int = 0
    model: Annotated[dict[str, Any], ruled("a model has a name", _has_name)]
    quantizer: dict[str, Any] | None = None
    input: ModelInput
    class_names: list[str]
    special: list[int] | None = None
    recipe: dict[str, Any]
    identity: dict[str, Any]
    parents: dict[str, str] = {}
    progress: dict[str, float | int | None] = {}
    history: list[EpochLine] = []
    part: EpochPart | None = None
    files: dict[str, str] = {}
    versions: dict[str, str] = {}


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch lies below an artefact's folder."""
    return folder / f"epoch-{epoch:04d}"


def epochs_in(folder: Path) -> list[int]:
    """Numbers of the epochs that have a checkpoint, ascending; other folders are left alone.

    On a disk a folder appears whole; in a store, one is whole when it has its description.
    """
    if is_stored(folder):
        return _numbers(path.parent for path in folder.glob(f"epoch-*/{META}"))
    return _numbers(folder.glob("epoch-*"))


def _numbers(folders: Iterable[Path]) -> list[int]:
    names = (path.name.removeprefix("epoch-") for path in folders)
    return sorted(int(name) for name in names if name.isdecimal())


def save(folder: Path, about: Meta, training: Training) -> Path:
    """Commits the checkpoint of a training's last epoch, or of the part of the next one it has.

    It lies below the artefact's `folder`, its path is returned, and `about` is everything that does
    not change from epoch to epoch.

    Raises:
        StorageError: it cannot be written.
    """
    part, best = training.part, training.best_accuracy if training.best_epoch else None
    path = epoch_folder(folder, training.epoch) if part is None else folder / UNDER_WAY
    moments = {
        f"{number}.{name}": value
        for number, entries in training.optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)  # SGD without momentum keeps None
    }
    with committed_folder(path, last=META) as draft:
        _write_tensors(draft / WEIGHTS, training.model.state_dict())
        _write_tensors(draft / OPTIMIZER, moments)
        meta = about.model_copy(
            update={
                "epoch": training.epoch,
                "progress": {
                    "best_epoch": training.best_epoch,
                    "best_accuracy": best,
                    **({} if training.fused is None else {"fused": training.fused}),
                },
                "history": training.history,
                "part": part,
                "files": {name: sha256_of(draft / name) for name in (WEIGHTS, OPTIMIZER)},
                "versions": versions(),
            }
        )
        write_json(draft / META, meta.model_dump(mode="json"))
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a training goes on from: of the last epoch, or of a part of the next."""
    latest = (epochs_in(folder) or [0])[-1]
    part = folder / UNDER_WAY
    if is_whole(part) and read_meta(part).epoch >= latest:
        return part
    return epoch_folder(folder, latest) if latest else None


def is_whole(path: Path) -> bool:
    """Whether there is a checkpoint at a path."""
    return (path / META).is_file()


def has_sizes(path: Path) -> bool:
    """Whether the files of a checkpoint are as long as they say; in a store, not empty."""
    files = [path / name for name in (META, WEIGHTS, OPTIMIZER)]
    if not all(file.is_file() and file.stat().st_size for file in files):
        return False
    try:
        for file in () if is_stored(path) else files[1:]:
            safe_open(file, framework="pt")
    except SafetensorError:
        return False
    return True


def retain(folder: Path, epochs: set[int]) -> None:
    """Deletes the checkpoints of all other epochs, and what a killed process left unfinished."""
    remove_drafts(folder)
    if is_whole(folder / UNDER_WAY) and read_meta(folder / UNDER_WAY).epoch < max(epochs):
        remove_folder(folder / UNDER_WAY, META)
    for epoch in _numbers(folder.glob("epoch-*")):
        if epoch not in epochs:
            remove_folder(epoch_folder(folder, epoch), META)


def read_meta(path: Path) -> Meta:
    """The description in a checkpoint folder.

    Raises:
        CheckpointError: there is none, or it is not one that this version reads.
    """
    shape = Annotated[Meta, ruled("epochs, files, channels and classes fit each other", _fits)]
    try:
        meta: Meta = read_json(path / META, shape, CheckpointError, MEND)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: a checkpoint is a folder with {META}, but there is none; name a folder "
            "such as runs/mnist/teacher/member-00/epoch-0001"
        ) from None
    return meta


def _fits(meta: Meta) -> bool:
    special = set(meta.special or [0]) <= set(range(len(meta.class_names)))
    files = {WEIGHTS, OPTIMIZER} <= set(meta.files)
    channels = len(meta.input.mean) == len(meta.input.std) == meta.input.shape[0]
    return special and files and channels and meta.epoch == len(meta.history)


def load_weights(path: Path, meta: Meta, model: nn.Module) -> None:
    """Loads the weights of a checkpoint into a model, in place.

    Raises:
        CheckpointError: the file is missing or altered, or is of another architecture.
    """
    try:
        model.load_state_dict(_read_tensors(path, WEIGHTS, meta))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit model {meta.model['name']!r} of its {META} "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error


def restore(path: Path, training: Training) -> Meta:
    """Brings a training to where it was when the checkpoint was saved; returns its description.

    Raises:
        CheckpointError: a file is missing or altered, or is of another architecture.
    """
    meta = read_meta(path)
    load_weights(path, meta, training.model)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _read_tensors(path, OPTIMIZER, meta).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, moments in training.optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused optimizers walk through memory, so both must lie in the same order.
                moments[name] = torch.empty_like(parameter).copy_(value)
    training.epoch = meta.epoch
    training.history = list(meta.history)
    training.best_epoch = int(meta.progress.get("best_epoch") or 0)
    best = meta.progress.get("best_accuracy")
    training.best_accuracy = -math.inf if best is None else float(best)
    training.part = meta.part
    fused = meta.progress.get("fused")
    training.fused = None if fused is None else bool(fused)
    return meta


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Written by Python, because a full disk is then an OSError like anywhere else.
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        # Weights that have two names are written twice, as safetensors knows no sharing.
        place = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if place in memory else own
        memory.add(place)
    path.write_bytes(serialized(plain))


def _read_tensors(path: Path, name: str, meta: Meta) -> dict[str, Tensor]:
    with _readable(path, name), local_copy(path / name) as copy:
        found = sha256_of(copy)
        if found != meta.files.get(name):
            raise CheckpointError(
                f"{path / name}: sha256 must be {meta.files.get(name)} by its {META}, "
                f"but is {found}; the file was altered: {MEND}"
            )
        return load_file(copy)


@contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / name}: cannot be read as part of a checkpoint ({reason_of(error)}); {MEND}"
        ) from error
