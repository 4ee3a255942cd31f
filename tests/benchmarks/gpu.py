"""What a GPU makes of kd-ray: agreement with the CPU, speed, memory, tests; in 8 minutes at most.

    python tests/benchmarks/gpu.py [--device cpu] [--quick] [--minutes 8]

A checkout is enough, and Python 3.11 to 3.13 with torch, torchvision, numpy, pyarrow, pydantic,
safetensors and pytest: no Ray, no network, no data; images are random. Every speed is beside what
it should be compared with, in turns in one process, best of the rounds:

- distilling (`train_epoch`) beside a hand-written loop over float tensors on the device, as it is
  and as one CUDA graph a step;
- students trained as one (`train_together`) beside one student alone;
- labelling (`write_shards`, to Parquet files) beside the teacher's bare forward pass;
- precisions and `compile` beside float32.

What fails, or has no time left, says so in its row, and the exit status is then 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]

import devices as kit
import torch
from torch import Tensor

from kd_ray.batch import Batch
from kd_ray.config import Augment, TransferSetOptions
from kd_ray.runs.label import plan_labelling, write_shards
from kd_ray.runs.rows import rows_to_label
from kd_ray.training.epoch import Turn, autocast, train_epoch
from kd_ray.training.feed import TensorFeed, normalized
from kd_ray.training.fused import train_together
from kd_ray.training.saved_model import MANY_ROWS, full_float32, raw_logits

CPU = torch.device("cpu")
K, BATCH = 10, 128
SHAPES = {"mlp": (1, 28, 28), "convnet": (3, 32, 32), "W2 A2": (3, 32, 32)}
NETS: kit.Nets = {
    "mlp": ("mlp", {"hidden": [800, 800]}, None),
    "convnet": ("convnet", {}, None),
    "W2 A2": ("convnet", {}, {"method": "dorefa", "weight_bits": 2, "activation_bits": 2}),
}
STUDENTS = (1, 8, 64)
RESERVE_S = 60.0
"""Before the end nothing begins any more that may take so long."""


@dataclass
class Bench:
    """What is measured on, how long, and what came of it."""

    device: torch.device
    ends: float
    rows: int = 16_384
    seconds: float = 1.0
    rounds: int = 3
    students: tuple[int, ...] = STUDENTS
    nets: kit.Nets = field(default_factory=lambda: NETS)
    failures: list[str] = field(default_factory=list)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def line(self, *cells: str) -> None:
        widths = (44, 14, 8, 26, 10)
        text = "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        sys.stdout.write(text.rstrip() + "\n")
        sys.stdout.flush()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part whose error is a row, and no end of the others."""
        try:
            if time.monotonic() > self.ends - RESERVE_S:
                raise TimeoutError("no time left")
            yield
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.failures.append(name)
            self.line(name, f"failed: {type(error).__name__}: {reason[:110]}")

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def rate(self, work: Callable[[], int]) -> float:
        """Images/s of work that says how many images it was of."""
        self.wait()
        started, images = time.perf_counter(), 0
        while not images or time.perf_counter() - started < self.seconds:
            images += work()
            self.wait()
        return images / (time.perf_counter() - started)

    def compare(self, title: str, ways: dict[str, Callable[[], int]]) -> None:
        """A row for each way: its rate, the ratio to the first, memory beside weights and rows."""
        best, peaks = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, "")
        for _ in range(self.rounds + 1):  # the first warms up
            for name in list(best):
                if self.is_cuda:
                    torch.cuda.reset_peak_memory_stats()
                    kept = torch.cuda.memory_allocated()
                with self.part(f"{title}: {name}"):
                    best[name] = max(best[name], self.rate(ways[name]))
                if f"{title}: {name}" in self.failures:
                    del best[name]
                elif self.is_cuda:
                    used = torch.cuda.max_memory_allocated() - kept
                    peaks[name] = f"{used / 2**20:,.0f} MiB"
        floor = next(iter(best), "")
        for name, rate in best.items():
            ratio = f"{rate / best[floor]:.2f}"
            self.line(f"{title}: {name}", f"{rate:,.0f}/s", ratio, f"of {floor}", peaks[name])


def feed_of(net: str, rows: int, device: torch.device) -> TensorFeed:
    return kit.rows(rows, SHAPES[net], K).to(device)


def student(
    net: str, bench: Bench, feed: TensorFeed, device: torch.device, seed: int = 0, **train: Any
) -> Turn:
    model = kit.network(net, seed, SHAPES[net], K, bench.nets)
    fields = {"epochs": 10**6, "batch_size": BATCH, "lr": 1e-4, "schedule": "constant"}
    return kit.turn(model, feed, device, **{**fields, **train})


def distilling(turn: Turn, device: torch.device) -> Callable[[], int]:
    """An epoch of one student by kd-ray."""
    network: Any = turn.training.model
    if turn.options.compile:
        network = torch.compile(network)

    def epoch() -> int:
        list(train_epoch(turn, network, kit.alone(device)))
        turn.training.epoch += 1
        return turn.feed.rows

    return epoch


def distilling_as_one(turns: list[Turn], device: torch.device) -> Callable[[], int]:
    """An epoch of several students, of which each sees all images."""

    def epoch() -> int:
        list(train_together(turns, kit.alone(device)))
        for turn in turns:
            turn.training.epoch += 1
        return turns[0].feed.rows * len(turns)

    return epoch


def bare(turn: Turn, device: torch.device, graphed: bool) -> Callable[[], int]:
    """An epoch of the same arithmetic by hand, on float tensors; `graphed`: one launch a step."""
    feed, model, optimizer = turn.feed, turn.training.model, turn.training.optimizer
    assert isinstance(feed, TensorFeed)
    assert isinstance(feed.pixels, Tensor)
    assert feed.logits is not None
    floats, logits = normalized(feed.pixels, feed.mean, feed.std), feed.logits[:, 0]
    chosen = torch.arange(BATCH, device=device)
    model.train()

    def step() -> None:
        with autocast(turn.options.precision, device):
            z = model(floats[chosen]).float()
        batch = Batch(floats, feed.labels[chosen], logits[chosen], BATCH, BATCH)
        turn.objective(z, batch, 0.0).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def fresh_step() -> None:
        optimizer.zero_grad()
        step()

    run = captured(fresh_step, step, optimizer) if graphed else fresh_step

    def epoch() -> int:
        order = torch.randperm(feed.rows, device=device)
        for place in range(0, feed.rows - BATCH + 1, BATCH):
            chosen.copy_(order[place : place + BATCH])
            run()
        return feed.rows // BATCH * BATCH

    return epoch


def captured(
    fresh_step: Callable[[], None], step: Callable[[], None], optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """A step as one CUDA graph, whose gradients lie where the graph has put them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fresh_step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def labelling(
    net: str, bench: Bench, feed: TensorFeed, augment: Augment
) -> dict[str, Callable[[], int]]:
    """A teacher alone, and transfer sets of its logits, with and without views."""
    rows, device, data = feed.rows, bench.device, kit.dataset(feed.to(CPU), K, test=0)
    about = kit.description(net, SHAPES[net], K, bench.nets, {"dataset": data.fingerprint})
    saved = kit.teacher(kit.network(net, 0, SHAPES[net], K, bench.nets), about, 0, device)
    assert isinstance(feed.pixels, Tensor)
    images = normalized(feed.pixels, feed.mean, feed.std)

    def forward() -> int:
        with torch.inference_mode(), full_float32():
            torch.cat([saved.model(part) for part in images.split(MANY_ROWS)]).cpu()
        return rows

    def label(views: int) -> Callable[[], int]:
        options = TransferSetOptions(views=views, augment=augment if views > 1 else Augment())
        plan = plan_labelling(data, options, [saved], [0.5])
        chosen = rows_to_label(data, options)

        def work() -> int:
            with tempfile.TemporaryDirectory() as folder:
                events = write_shards(
                    *(Path(folder), plan, chosen),
                    lambda shard, pieces: raw_logits([saved], pieces, device),
                    kit.alone(device),
                )
                return sum(event.rows for event in events)

        return work

    return {"forward pass": forward, "transfer set": label(1), "transfer set, views": label(4)}


def agreement(net: str, bench: Bench) -> None:
    """How far the device's figures are from the CPU's."""
    logits, losses = [], []
    for device in (bench.device, CPU):
        feed = feed_of(net, 1024, device)
        turn = student(net, bench, feed, device)
        images = feed.batch(torch.arange(256), slice(None), 1).images
        with torch.no_grad():
            logits.append(turn.training.model.eval()(images).cpu())
        list(train_epoch(turn, turn.training.model, kit.alone(device)))
        losses.append(turn.figures()["train_loss"])
    apart = float((logits[0] - logits[1]).abs().amax() / logits[1].abs().amax())
    loss = abs(losses[0] / losses[1] - 1)
    bench.line(f"{net}: logits differ from the CPU's", f"{apart:.1e}", "", "of the largest")
    bench.line(f"{net}: an epoch's loss differs", f"{loss:.1e}", "", "of the CPU's")
    if apart > 0.05 or loss > 0.02:  # few bits make a small difference a large one
        raise ValueError("the device and the CPU must agree to 5% and 2%")


def tests(bench: Bench) -> None:
    """The tests of the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "gpu"]
    folder = ROOT / "tests" / "gpu"
    limit = max(1.0, bench.ends - time.monotonic())
    answer = subprocess.run(
        [*command, "--confcutdir", str(folder), str(folder)],
        cwd=ROOT,
        env={**os.environ, "KD_RAY_TEST_DEVICE": bench.device.type, "PYTHONPATH": str(ROOT)},
        timeout=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = answer.stdout.splitlines()
    bench.line("pytest -m gpu", lines[-1] if lines else answer.stderr[-200:])
    if answer.returncode:
        sys.stdout.write(answer.stdout[-6000:])
        raise ValueError(f"exit status {answer.returncode}")


def speeds(net: str, bench: Bench) -> None:
    """Distilling, students as one, labelling."""
    device = bench.device
    feed, few = (feed_of(net, rows, device) for rows in (bench.rows, min(bench.rows, 2048)))

    def one(**train: Any) -> Turn:
        return student(net, bench, feed, device, **train)

    ways = {"bare loop": bare(one(), device, graphed=False), "kd-ray": distilling(one(), device)}
    if bench.is_cuda:
        with bench.part(f"{net}: CUDA graph"):
            ways["bare loop, CUDA graph"] = bare(one(), device, graphed=True)
    bench.compare(f"{net}, fp32", ways)
    ways = {name: distilling(one(precision=name), device) for name in ("fp32", "bf16")}
    bench.compare(f"{net}, kd-ray", ways)
    ways = {"alone": distilling(student(net, bench, few, device), device)}
    for count in bench.students:
        turns = [student(net, bench, few, device, seed) for seed in range(count)]
        ways[f"{count} as one"] = distilling_as_one(turns, device)
    bench.compare(f"{net}, kd-ray", ways)
    bench.compare(f"{net}, labelling", labelling(net, bench, feed, Augment(shift=2)))


def main() -> None:
    parser = argparse.ArgumentParser(description="what a GPU makes of kd-ray")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see it run")
    parser.add_argument("--minutes", type=float, default=8.0, help="at most")
    given = parser.parse_args()
    bench = Bench(torch.device(given.device), time.monotonic() + 60 * given.minutes)
    if given.quick:
        bench.rows, bench.seconds, bench.rounds = 2 * BATCH, 0.0, 1
        bench.students, bench.nets = STUDENTS[:2], kit.NETS
    name = torch.cuda.get_device_name() if bench.is_cuda else "CPU"
    bench.line(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    bench.line("what", "images", "ratio", "to", "memory")
    for net in bench.nets:
        with bench.part(f"{net}: agreement"):
            agreement(net, bench)
    for net in bench.nets:
        with bench.part(f"{net}: speeds"):
            speeds(net, bench)
    with bench.part("pytest -m gpu"):
        tests(bench)
    for net in () if given.quick else bench.nets:  # last, as it takes longest to begin
        feed = feed_of(net, bench.rows, bench.device)
        ways = {
            name: distilling(
                student(net, bench, feed, bench.device, precision="bf16", compile=compiled),
                bench.device,
            )
            for name, compiled in (("bf16", False), ("bf16, compiled", True))
        }
        bench.compare(f"{net}, compile", ways)
    if bench.failures:
        raise SystemExit(f"failed: {', '.join(dict.fromkeys(bench.failures))}")


if __name__ == "__main__":
    main()
