"""Sizes and times of exported students against float ones, one thread, as ratios of one run.

The shipped network for street digits, 32 x 32 pixels of 3 channels, with weights as they are drawn:
neither bytes nor time depend on their values. Every runtime takes its turn in each repeat, and of
each picture, or of all at once, the fastest repeat counts.

    uv run python tests/benchmarks/exported.py [--images 64] [--repeats 20]
"""

import argparse
import platform
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kd_ray.config import QuantizerOptions
from kd_ray.export.compare import fastest, torch_logits
from kd_ray.export.formats import FORMATS, Subject
from kd_ray.models import build_model
from kd_ray.quant import quantize_

SHAPE = (3, 32, 32)
KINDS = ("packed", "c", "onnx")
STUDENTS = {"float": None, "W2A2": (2, 2), "W2A1": (2, 1), "W1A1": (1, 1)}


def subject(bits: tuple[int, int] | None) -> Subject:
    """The network with so many bits of weights and activations."""
    model = build_model("convnet", {}, shape=SHAPE, classes=10, seed=0)
    if bits is not None:
        quantize_(model, QuantizerOptions(weight_bits=bits[0], activation_bits=bits[1]), SHAPE)
    about = {"class_names": [str(number) for number in range(10)], "student_sha256": ""}
    return Subject(model.eval(), SHAPE, (0.45,) * 3, (0.2,) * 3, about)


def main(images: int, repeats: int) -> None:
    """Prints a line for each student and format: its size, and its times as ratios."""
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (images, *SHAPE), np.uint8)
    plain = subject(STUDENTS["float"])
    sizes: dict[str, int] = {}
    called = {"float torch": lambda given: torch_logits(plain, given)}
    with tempfile.TemporaryDirectory() as home:
        for name, bits in STUDENTS.items():
            for kind in KINDS:
                format, folder = FORMATS[kind], Path(home) / name / kind
                folder.mkdir(parents=True)
                format.write(folder, subject(bits))
                sizes[f"{name} {kind}"] = (folder / format.files[0]).stat().st_size
                if kind != "packed":  # whose reader in numpy is not made to be fast
                    called[f"{name} {kind}"] = format.runner(folder)
        ones = np.split(pixels, images)
        runs = {(name, -1): partial(call, pixels) for name, call in called.items()}
        for name, call in called.items():
            runs |= {(name, row): partial(call, one) for row, one in enumerate(ones)}
        best = fastest(runs, repeats)
    seconds = {(name, True): best[name, -1] for name in called}
    for name in called:
        seconds[name, False] = sum(best[name, row] for row in range(images))
    print(f"{platform.machine()}, {images} images, {repeats} repeats")  # noqa: T201
    for name, size in sizes.items():
        smaller = sizes[f"float {name.split()[1]}"] / size
        print(f"{name}: {size:,} bytes, {smaller:.1f} times smaller than float")  # noqa: T201
    for name in called:
        for batched, how in ((True, "at once"), (False, "one by one")):
            taken = seconds[name, batched]
            ratios = ", ".join(
                f"{seconds[base, batched] / taken:.2f} times {base}"
                for base in ("float torch", "float onnx")
            )
            print(f"{name} {how}: {1e6 * taken / images:,.0f} us, {ratios}")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    main(arguments.images, arguments.repeats)
