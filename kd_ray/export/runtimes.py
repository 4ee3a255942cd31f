"""What runs exported models from here: optional libraries, and the pixels that they are given."""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_ray.errors import CheckpointError, ConfigError, DataError
from kd_ray.export.net import Array

LEAST = {"onnx": (1, 20), "onnxruntime": (1, 24)}
"""Versions that know opset 25, with its numbers of 2 bits."""
AT_ONCE = 256


def library(name: str) -> Any:
    """An optional library, of a version that is new enough.

    Raises:
        ConfigError: it is not.
    """
    wanted = ".".join(map(str, LEAST[name]))
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"onnx: needs {name} >= {wanted}, which is not installed ({error}); install "
            "kd-ray[onnx]"
        ) from error
    numbers = tuple(int(number) for number in re.findall(r"\d+", found.__version__)[:2])
    if numbers < LEAST[name]:
        raise ConfigError(
            f"onnx: needs {name} >= {wanted}, but {found.__version__} is installed; install "
            "kd-ray[onnx] anew"
        )
    return found


def check_pixels(pixels: Array, shape: Sequence[int]) -> None:
    """Refuses what is no uint8 `(N, C, H, W)` of a shape `(C, H, W)`.

    Raises:
        DataError: it is of another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != tuple(shape):
        raise DataError(
            f"pixels: must be uint8 of shape (N, {', '.join(map(str, shape))}), but got "
            f"{pixels.dtype} of shape {pixels.shape}; convert them"
        )


def in_pieces(
    run: Callable[[Array], Array], shape: Sequence[int], classes: int
) -> Callable[[Array], Array]:
    """A function of pixels that checks them, and has a part of them run at a time.

    Args:
        run: logits `(N, K)` of pixels `(N, C, H, W)` uint8.
        shape: `(C, H, W)`.
        classes: K.
    """

    def logits(pixels: Array) -> Array:
        check_pixels(pixels, shape)
        if not len(pixels):
            return np.zeros((0, classes), np.float32)
        pieces = range(0, len(pixels), AT_ONCE)
        return np.concatenate([run(pixels[start : start + AT_ONCE]) for start in pieces])

    return logits


def onnx_runner(file: Path) -> Callable[[Array], Array]:
    """Logits `(N, K)` of pixels `(N, C, H, W)` uint8 by ONNX Runtime, on one thread of the CPU.

    Raises:
        ConfigError: ONNX Runtime is missing, or too old.
        CheckpointError: it cannot read the file.
    """
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # ONNX Runtime has no class of its own errors
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{file}: must be an ONNX model that onnxruntime {runtime.__version__} reads, but "
            f"{reason}; export it again"
        ) from error
    return in_pieces(
        lambda piece: np.asarray(session.run(None, {pixels.name: piece})[0]),
        pixels.shape[1:],
        logits.shape[1],
    )
