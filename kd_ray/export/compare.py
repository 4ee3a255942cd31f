"""Whether an exported student answers as torch's evaluation does, and how long it takes."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from kd_ray.errors import CheckpointError
from kd_ray.export.formats import Subject
from kd_ray.export.net import Array
from kd_ray.training.feed import normalized

Run = TypeVar("Run", bound=Hashable)
AT_ONCE = 256
TIMED = 16
"""Images that runs are timed on."""
REPEATS = 100
LONGEST_S = 3.0
"""Seconds after which nothing is timed again."""
PROMISE = 0.999
"""The share of test images that have the class that torch gives them: a float layer may round
another way in its last bit, and such a bit may make the next code."""
TOUCHED = 1e-3
"""An image is touched by this where a logit differs by more than this part of the largest one."""


@dataclass(frozen=True)
class Verification:
    """An exported student beside torch's evaluation of it.

    Attributes:
        rows: images.
        agreement: the share of them with the same class.
        largest_difference: of any two logits.
        touched: images with logits that differ by more than rounding.
    """

    rows: int
    agreement: float
    largest_difference: float
    touched: int


def torch_logits(subject: Subject, pixels: Array) -> Array:
    """Torch's evaluation of pictures `(N, C, H, W)` uint8: `(N, K)` float32."""
    mean, std = (torch.tensor(value, dtype=torch.float32) for value in (subject.mean, subject.std))
    with torch.inference_mode():
        parts = [
            subject.model(normalized(part, mean, std)).float()
            for part in torch.split(torch.from_numpy(pixels), AT_ONCE)
        ]
    logits: Array = torch.cat(parts).numpy()
    return logits


def compared(
    subject: Subject, runner: Callable[[Array], Array], pixels: Array
) -> tuple[Verification, Array]:
    """Runs both on the same pictures, `(N, C, H, W)` uint8; also the logits of the export."""
    wanted, found = torch_logits(subject, pixels), runner(pixels)
    difference = np.abs(found - wanted).max(axis=1)
    same = found.argmax(1) == wanted.argmax(1)
    beyond = difference > TOUCHED * float(np.abs(wanted).max())
    made = Verification(
        rows=len(pixels),
        agreement=float(same.mean()),
        largest_difference=float(difference.max()),
        touched=int(beyond.sum()),
    )
    return made, found


def check_promise(name: str, made: Verification) -> None:
    """Refuses an export that answers otherwise than its student.

    Raises:
        CheckpointError: too few classes are the same.
    """
    if not made.agreement >= PROMISE or not np.isfinite(made.largest_difference):
        raise CheckpointError(
            f"{name}: must give at least {PROMISE:.1%} of the test images the class that torch "
            f"gives them, but gave it to {made.agreement:.2%} of {made.rows:,}; nothing was kept, "
            "so choose another format, and report this"
        )


def fastest(
    runs: Mapping[Run, Callable[[], object]], repeats: int, longest_s: float = float("inf")
) -> dict[Run, float]:
    """Seconds of each run, the least of several; no repeat begins after `longest_s`.

    All take their turn in each repeat, so that what else a machine does meets all of them.
    """
    best, begun = dict.fromkeys(runs, float("inf")), time.perf_counter()
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
        if time.perf_counter() - begun > longest_s:
            break
    return best


def us_per_image(
    runners: Mapping[str, Callable[[Array], Array]], pixels: Array
) -> dict[str, float]:
    """Microseconds of each runner for one picture after the other, `(N, C, H, W)` uint8.

    Torch is to be set to one thread by whoever calls.
    """
    ones = np.split(pixels[:TIMED], min(len(pixels), TIMED))
    runs = {
        (name, row): partial(run, one)
        for name, run in runners.items()
        for row, one in enumerate(ones)
    }
    seconds = fastest(runs, REPEATS, LONGEST_S)
    return {
        name: round(1e6 * sum(seconds[name, row] for row in range(len(ones))) / len(ones), 1)
        for name in runners
    }
