"""The formats by name: how a student is written, and how what was written is run to be compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from kd_ray import deployed
from kd_ray.export.c import C_FILE, H_FILE, write_c
from kd_ray.export.c_run import c_runner
from kd_ray.export.lower import lowered
from kd_ray.export.net import Array, Operation
from kd_ray.export.packed import write_packed
from kd_ray.export.pt2 import Deployed, pt2_runner, write_pt2
from kd_ray.export.runtimes import library, onnx_runner

PACKED, ONNX, PT2 = "student.packed.safetensors", "student.onnx", "student.pt2"


@dataclass(frozen=True)
class Subject:
    """A model that is exported.

    Attributes:
        model: in evaluation mode, on the CPU.
        shape: `(C, H, W)` of a picture.
        mean: `(C,)` of the pixels in [0, 1].
        std: as `mean`.
        about: what files say of it: `class_names`, `recipe`, `student_sha256`.
    """

    model: nn.Module
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping[str, Any]

    @cached_property
    def steps(self) -> list[Operation]:
        """What it computes, see `lower`."""
        return lowered(self.model, self.shape, self.mean, self.std)


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        files: names, the one that is evaluated first.
        write: of a folder and a student: writes the files.
        runner: of a folder that has the files: logits `(N, K)` of pixels `(N, C, H, W)` uint8.
        runs_code: whether a file may have code that runs when it is loaded.
    """

    files: tuple[str, ...]
    write: Callable[[Path, Subject], None]
    runner: Callable[[Path], Callable[[Array], Array]]
    runs_code: bool = False


def _write_packed(folder: Path, subject: Subject) -> None:
    write_packed(folder / PACKED, subject.steps, {"shape": subject.shape, **subject.about})


def _write_c(folder: Path, subject: Subject) -> None:
    write_c(folder, subject.steps, {"shape": subject.shape, **subject.about})


def _write_onnx(folder: Path, subject: Subject) -> None:
    for name in ("onnx", "onnxruntime"):
        library(name)
    from kd_ray.export.onnx_file import write_onnx  # imports the optional onnx

    write_onnx(folder / ONNX, subject.steps, {"shape": subject.shape, **subject.about})


def _write_pt2(folder: Path, subject: Subject) -> None:
    deployed_model = Deployed(subject.model, subject.mean, subject.std)
    write_pt2(folder / PT2, deployed_model, subject.shape, subject.about)


FORMATS: Mapping[str, Format] = {
    "packed": Format((PACKED,), _write_packed, lambda folder: deployed.load(folder / PACKED)),
    "c": Format((C_FILE, H_FILE), _write_c, c_runner),
    "onnx": Format((ONNX,), _write_onnx, lambda folder: onnx_runner(folder / ONNX)),
    "pt2": Format((PT2,), _write_pt2, lambda folder: pt2_runner(folder / PT2), runs_code=True),
}
