"""Images/s of distilling from a transfer set, beside the loops that it should be compared with.

    uv run python tests/benchmarks/student_loop.py [--rows 20000] [--threads 2] [--device cuda]

Three ways to train the same student with the same loss, optimizer, batch and threads, in one run
and in turns, on random MNIST-shaped images:

- bare: a hand-written loop over float tensors in memory, logits beside them (the floor);
- kd-ray: `student.distill` on the rows of a transfer set read from Parquet;
- teacher each step: torch's DataLoader, and the teacher's forward pass in every step (what one
  writes without stored logits).

Printed are images/s and the ratio to the bare loop, best of the rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, Split
from kd_ray.models import build_model
from kd_ray.training.losses import distillation_loss
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Epoch, Training
from kd_ray.training.student import distill, student_feeds
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import (
    Columns,
    Plan,
    SplitPlan,
    TeacherIdentity,
    index_sha256,
    open_transfer_set,
    shards,
    write_manifest,
    write_shard,
)

K, SHAPE, BATCH, T = 10, (1, 28, 28), 128, 20.0


def random_dataset(rows: int) -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, *SHAPE), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, K, (rows,), generator=draw)
    few = Split("test", images[:100], labels[:100])
    none = Split("validation", images[:0], labels[:0])
    names = tuple(str(k) for k in range(K))
    return Dataset("random", names, Split("train", images, labels), none, few)


def stored(dataset: Dataset, logits: Tensor, folder: Path) -> None:
    """Writes a transfer set of the dataset with these logits `(N, M, K)`."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    plan = Plan(
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        mean=dataset.mean,
        std=dataset.std,
        splits={
            name: SplitPlan(
                dataset_rows=split.rows,
                fingerprint=split.fingerprint,
                rows=split.rows,
                index_sha256=index_sha256(torch.arange(split.rows).numpy()),
            )
            for name, split in splits.items()
        },
        teachers=(
            TeacherIdentity(
                sha256="0" * 64, model={}, accuracy=0.5, class_names=dataset.class_names
            ),
        ),
        dtype="float16",
        views=1,
        augment={},
        seed=0,
        unlabelled=0.0,
        include_images=False,
        shard_rows=8192,
        compression="none",
    )
    for shard in shards(plan):
        place = torch.arange(shard.start, shard.stop)
        columns = Columns(
            index=place.numpy(),
            view=torch.zeros_like(place, dtype=torch.int32).numpy(),
            label=splits[shard.split].labels[place].numpy(),
            logits=logits[place].numpy(),
        )
        write_shard(folder, plan, shard, columns)
    write_manifest(folder, plan)


def loss_of(z: Tensor, y: Tensor, v: Tensor) -> Tensor:
    return distillation_loss(
        z,
        y,
        v,
        temperature=T,
        soft_weight=T**2,
        hard_weight=1.0,
        global_rows=len(y),
        global_labelled=len(y),
    ).total


Way = Callable[[], None]

RECIPE = Recipe.model_validate(
    {
        "name": "benchmark",
        "data": {"name": "digits"},
        "transfer_set": {"path": "made by this script"},
        "student": {"model": {"name": "mlp", "hidden": [800, 800]}},
        "objective": {"temperature": T},
        "train": {
            "epochs": 10**6,
            "batch_size": BATCH,
            "optimizer": "sgd",
            "lr": 0.01,
            "schedule": "constant",
            "precision": "fp32",
        },
    }
)


def student(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model("mlp", {"hidden": [800, 800]}, shape=SHAPE, classes=K, seed=0).to(device)
    return model, make_optimizer(model, RECIPE.train)


def bare_loop(floats: Tensor, labels: Tensor, logits: Tensor) -> Way:
    model, optimizer = student(floats.device)

    def epoch() -> None:
        for rows in torch.randperm(len(labels)).to(floats.device).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(floats[rows]), labels[rows], logits[rows]).backward()
            optimizer.step()

    return epoch


def teacher_each_step(dataset: Dataset, teacher: nn.Module, device: torch.device) -> Way:
    model, optimizer = student(device)
    rows = TensorDataset(dataset.train.images, dataset.train.labels)
    loader = DataLoader(rows, BATCH, shuffle=True)
    mean, std = normalization(dataset, device)

    def epoch() -> None:
        for images, labels in loader:
            x = (images.to(device).float() / 255 - mean) / std
            with torch.no_grad():
                v = teacher(x)[:, None]
            optimizer.zero_grad()
            loss_of(model(x), labels.to(device), v).backward()
            optimizer.step()

    return epoch


def from_transfer_set(dataset: Dataset, logits: Tensor, device: torch.device, threads: int) -> Way:
    with tempfile.TemporaryDirectory() as folder:
        stored(dataset, logits.cpu(), Path(folder))
        feeds = student_feeds(open_transfer_set(Path(folder)), dataset).held(device, "device")
    worker = Worker(rank=0, world=1, device=device, threads=threads)
    training = Training(*student(device))
    events = distill(training, RECIPE, seed=0, feeds=feeds, worker=worker)

    def epoch() -> None:
        next(event for event in events if isinstance(event, Epoch))

    return epoch


def normalization(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(dataset.mean, device=device), torch.tensor(dataset.std, device=device)
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def contestants(rows: int, device: torch.device, threads: int) -> dict[str, Way]:
    dataset = random_dataset(rows)
    teacher = build_model("mlp", {"hidden": [1200, 1200]}, shape=SHAPE, classes=K, seed=0)
    teacher = teacher.to(device).eval()
    mean, std = normalization(dataset, device)
    floats = (dataset.train.images.to(device).float() / 255 - mean) / std
    with torch.no_grad():
        logits = torch.cat([teacher(part) for part in floats.split(1000)])[:, None]
    return {
        "bare loop, tensors in memory": bare_loop(floats, dataset.train.labels.to(device), logits),
        "kd-ray, transfer set": from_transfer_set(dataset, logits, device, threads),
        "teacher each step, DataLoader": teacher_each_step(dataset, teacher, device),
    }


def seconds_of(way: Way, epochs: int, device: torch.device) -> float:
    """On a CPU, processor seconds: other work on the machine then weighs on all ways alike."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    for _ in range(epochs):
        way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="distilling speed as a ratio to the bare loop")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=1, help="epochs in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)

    ways = contestants(options.rows, device, options.threads)
    best = dict.fromkeys(ways, 0.0)
    for _ in range(options.rounds):
        for name, way in ways.items():
            seconds = seconds_of(way, options.epochs, device)
            best[name] = max(best[name], options.epochs * options.rows / seconds)
    floor = best["bare loop, tensors in memory"]
    for name, rate in best.items():
        line = f"{name:32} {rate:10,.0f} images/s  {rate / floor:5.2f} of the bare loop"
        Console().print(line, highlight=False)


if __name__ == "__main__":
    main()
