"""What quantizing costs: an epoch of each method beside an epoch of the same network in float.

    uv run python tests/benchmarks/quantized_epoch.py [--rows 2560] [--threads 1] [--precision fp32]

The exercise's network on random pictures of SVHN's shape, trained by `loop.fit` in turns in one
process. Printed are images/s and the ratio of the float epoch's CPU seconds, best of the rounds.
"""

import argparse
import time

import torch
from rich.console import Console

from kd_ray.batch import Batch
from kd_ray.config import QuantizerOptions, Train
from kd_ray.models import build_model
from kd_ray.quant import calibrate_, quantize_
from kd_ray.training.feed import TensorFeed
from kd_ray.training.loop import fit
from kd_ray.training.losses import Loss, distillation_loss
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Training
from kd_ray.training.workers import Worker

SHAPE, K, ROUNDS = (3, 32, 32), 10, 5
STUDENTS: dict[str, dict[str, int | str] | None] = {
    "float": None,
    "dorefa W2 A1": {"weight_bits": 2, "activation_bits": 1},
    "dorefa W2 A2": {"weight_bits": 2, "activation_bits": 2},
    "dorefa W1 A2": {"weight_bits": 1, "activation_bits": 2},
    "dorefa W2 A1 G4": {"weight_bits": 2, "activation_bits": 1, "gradient_bits": 4},
    "megvii W2 A1": {"method": "megvii", "weight_bits": 2, "activation_bits": 1},
    "lsq W2 A2": {"method": "lsq", "weight_bits": 2, "activation_bits": 2},
    "pact W2 A2": {"method": "pact", "weight_bits": 2, "activation_bits": 2},
}


def objective(logits: torch.Tensor, batch: Batch, progress: float) -> Loss:
    return distillation_loss(
        logits,
        batch.labels,
        batch.teacher_logits,
        temperature=4.0,
        soft_weight=16.0,
        hard_weight=1.0,
        global_rows=batch.global_rows,
        global_labelled=batch.global_labelled,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2560)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    draw = torch.Generator().manual_seed(0)
    feed = TensorFeed(
        pixels=torch.randint(0, 256, (given.rows, *SHAPE), generator=draw, dtype=torch.uint8),
        labels=torch.randint(0, K, (given.rows,), generator=draw),
        index=torch.arange(given.rows),
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        logits=torch.randn(given.rows, 1, 1, K, generator=draw),
    )
    worker = Worker(rank=0, world=1, device=torch.device("cpu"), threads=given.threads)
    options = Train(epochs=ROUNDS + 1, batch_size=128, precision=given.precision)
    trainings = {}
    for name, quantizer in STUDENTS.items():
        model = build_model("convnet", {}, shape=SHAPE, classes=K, seed=0)
        if quantizer is not None:
            quantize_(model, QuantizerOptions.model_validate(quantizer), SHAPE)
            calibrate_(model, feed.batch(torch.arange(256), slice(None), 1).images)
        model = model.to(memory_format=torch.channels_last)
        training = Training(model, make_optimizer(model, options))
        trainings[name] = fit(training, feed, objective, options, seed=0, worker=worker)
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, epochs in trainings.items():
            started = time.process_time()
            while not hasattr(next(epochs), "metrics"):
                pass
            seconds[name].append(time.process_time() - started)
    console = Console()
    best = {name: min(taken[1:]) for name, taken in seconds.items()}
    for name, taken in best.items():
        rate, ratio = given.rows / taken, taken / best["float"]
        console.print(f"{name:18s}{rate:8,.0f} images/s   {ratio:.2f} of a float epoch")


if __name__ == "__main__":
    main()
