"""Where rows are held while models learn from them: chosen here alone, by size against memory."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kd_ray.config import DataOptions
from kd_ray.config.data import Hold
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.errors import ConfigError
from kd_ray.machine import memory_bytes
from kd_ray.units import bytes_shown

HOST_SHARE, DEVICE_SHARE = 1 / 4, 1 / 2
"""Of memory, that rows may take. Several workers of a machine have a copy each, and a device has
weights and activations beside them."""


@dataclass(frozen=True)
class Holding:
    """Where rows are held, and why there: the clause of a sentence."""

    where: Literal["device", "host", "stream"]
    why: str

    def __str__(self) -> str:
        how = {
            "device": "on the device",
            "host": "in the host's memory",
            "stream": "streamed",
        }[self.where]
        return f"{how}, as {self.why}"


def host_holding(options: DataOptions, image_bytes: int) -> Holding:
    """Whether packed images of so many bytes in all are in the host's memory or streamed."""
    if options.hold != "auto":
        where: Literal["host", "stream"] = "stream" if options.hold == "stream" else "host"
        return Holding(where, f"data.hold = {options.hold!r}")
    has = memory_bytes()
    fits = image_bytes <= HOST_SHARE * has
    return Holding("host" if fits else "stream", _arithmetic(image_bytes, fits, HOST_SHARE, has))


def device_holding(hold: Hold, rows_bytes: int, device: torch.device) -> Holding:
    """Whether rows of so many bytes, in memory, are on the device of a model or stay in the host's.

    A CPU's memory is the host's.
    """
    if hold != "auto":
        where: Literal["device", "host"] = "device" if hold == "device" else "host"
        return Holding(where, f"data.hold = {hold!r}")
    if device.type != "cuda":
        return Holding("device", f"the {device.type}'s memory is the host's")
    has = torch.cuda.get_device_properties(device).total_memory
    fits = rows_bytes <= DEVICE_SHARE * has
    return Holding("device" if fits else "host", _arithmetic(rows_bytes, fits, DEVICE_SHARE, has))


def _arithmetic(needed: int, fits: bool, share: float, has: int) -> str:
    """The comparison that was made.

    >>> _arithmetic(6_000_000_000, False, 0.25, 16_000_000_000)
    '6.0 GB of rows are more than 1/4 of 16.0 GB'
    """
    more = "at most" if fits else "more than"
    return f"{bytes_shown(needed)} of rows are {more} 1/{1 / share:.0f} of {bytes_shown(has)}"


def held(dataset: Dataset, options: DataOptions) -> Dataset:
    """A dataset whose packed images are in memory, unless they are to be streamed.

    Raises:
        ConfigError: rows that streaming needs together do not fit the buffer.
    """
    splits = [dataset.train, dataset.validation, dataset.test]
    if dataset.train.packed is None:
        return dataset
    holding = host_holding(options, sum(split.images.shape.numel() for split in splits))
    if holding.where == "stream":
        _check_buffer(dataset.train, options)
    train, validation, test = (_held(split, holding) for split in splits)
    return replace(dataset, train=train, validation=validation, test=test)


def _held(split: Split, holding: Holding) -> Split:
    images = split.images
    if holding.where != "stream" or isinstance(images, Tensor):
        return replace(split, images=split.in_memory)
    return replace(split, images=replace(images, why=holding.why))


def _check_buffer(split: Split, options: DataOptions) -> None:
    assert split.packed is not None
    group = split.packed.groups.largest_bytes
    if 2 * group > 3 * options.buffer_bytes // 4:
        raise ConfigError(
            f"data.buffer_bytes: must have room for two row groups of {bytes_shown(group)} in 3/4 "
            f"of it, but is {bytes_shown(options.buffer_bytes)}; raise it to "
            f"{-(-8 * group // 3)} or more"
        )
