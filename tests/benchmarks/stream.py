"""Streamed rows beside rows in memory: memory, speed of training, decoding, labelling and packing.

    uv run python tests/benchmarks/stream.py [memory speed jpeg label pack s3] [--rows 100000]

Each figure is a ratio of two things that one run does in turns, best of the rounds:

- memory: peak resident memory of a process that trains an epoch on 20 times `--rows` streamed rows
  of 3 kB, beside one on a quarter of them;
- speed: images/s of a small convolutional student, streamed beside in memory;
- jpeg: pictures of 224 pixels decoded by a streamed feed, beside torch's DataLoader with as many
  processes as the feed has threads;
- label: images/s of writing shards from streamed rows, beside the teacher's forward pass alone;
- pack: MB/s of packing pixels, and of packing JPEGs, which are decoded to see that they can be,
  beside a bare copy of the same bytes with a flush to the disk;
- s3: batches of a feed from an S3-compatible server on this machine, beside those from its disk and
  beside as many threads that get the same ranges and throw them away.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kd_ray.config import DataOptions, Train
from kd_ray.datasets import PackedImages, Split, open_dataset
from kd_ray.datasets.packed import write
from kd_ray.datasets.packed.plan import PackedFile
from kd_ray.datasets.packed.source import PackSource
from kd_ray.datasets.picture import read_picture
from kd_ray.files.store import store
from kd_ray.machine import usable_cpus
from kd_ray.models import build_model
from kd_ray.runs.rows import SplitRows
from kd_ray.training.batch_loss import label_objective
from kd_ray.training.feed import TensorFeed, feed_of, normalized
from kd_ray.training.loop import fit
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Epoch, Training
from kd_ray.training.workers import Worker

K, SHAPE, BATCH, ROUNDS = 10, (3, 32, 32), 256, 3


class Drawn:
    """Any number of random images, of which few are in memory."""

    def __init__(self, rows: int) -> None:
        self.shape, self.dtype = torch.Size([rows, *SHAPE]), torch.uint8
        draw = torch.Generator().manual_seed(0)
        self.some = torch.randint(0, 256, (4096, *SHAPE), generator=draw, dtype=torch.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.some[rows % len(self.some)]


def packed(folder: Path, rows: int) -> float:
    """Packs so many drawn images; returns seconds."""
    split = Split("train", Drawn(rows), torch.arange(rows) % K)  # type: ignore[arg-type]
    none = Split("test", Drawn(0), torch.arange(0))  # type: ignore[arg-type]
    splits = {"train": split, "validation": none, "test": none}
    source = PackSource("drawn", tuple(map(str, range(K))), splits, None, "0" * 64)

    @contextmanager
    def opened(*arguments: object) -> Iterator[PackSource]:
        yield source

    started = time.perf_counter()
    with patch.object(write, "opened_source", opened):
        for _ in write.pack(DataOptions(name="digits"), folder):
            pass
    return time.perf_counter() - started


def feed(folder: Path | str, hold: str, buffer_bytes: int = 2**29) -> TensorFeed:
    given = {"name": "packed", "root": str(folder), "hold": hold, "buffer_bytes": buffer_bytes}
    dataset = open_dataset(DataOptions.model_validate(given))
    return feed_of(dataset.train, dataset.mean, dataset.std)


def worker() -> Worker:
    return Worker(0, 1, torch.device("cpu"), torch.get_num_threads())


def epochs(rows: TensorFeed, model: nn.Module, count: int) -> Iterator[tuple[float, float]]:
    """Trains; gives the images/s of each epoch, and those of a second of CPU time."""
    options = Train(epochs=count, batch_size=BATCH, lr=0.01)
    training = Training(model, make_optimizer(model, options))
    began = time.process_time()
    for event in fit(training, rows, label_objective(0.0), options, seed=0, worker=worker()):
        if isinstance(event, Epoch):
            yield event.images_per_s, rows.rows / (time.process_time() - began)
            began = time.process_time()


def student(name: str, **options: object) -> nn.Module:
    return build_model(name, options, shape=SHAPE, classes=K, seed=0)


def child(folder: str, rows: int) -> None:
    """Trains one epoch; prints peak resident memory in MiB."""
    rate, _ = next(
        epochs(feed(Path(folder), "stream", _buffer(rows)), student("mlp", hidden=[16]), 1)
    )
    # What getrusage says would have the memory of the process in it that has started this one.
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) / 1024
    sys.stdout.write(f"{peak} {rate}")


def _buffer(rows: int) -> int:
    """512 MiB, or less where there are fewer than 100,000 rows, so that windows are outgrown."""
    return min(2**29, 2**29 * rows // 100_000)


def memory(console: Console, folder: Path, rows: int) -> None:
    peaks = []
    for count in (5 * rows, 20 * rows):
        packed(folder / str(count), count)
        options = ["--child", str(folder / str(count)), "--rows", str(rows)]
        command = [sys.executable, __file__, *options]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, rate = map(float, answer.stdout.split())
        peaks.append(peak)
        console.print(f"memory: {count:,} rows, peak {peak:,.0f} MiB, {rate:,.0f} images/s")
    console.print(f"memory: {peaks[1] / peaks[0]:.3f} of that of a quarter of the rows")


def best(rounds: int, *tries: Callable[[], tuple[float, ...]]) -> np.ndarray:
    """The largest of the answers of each, asked in turns: `(tries, answers)`."""
    found = [[attempt() for attempt in tries] for _ in range(rounds)]
    return np.array(found).max(axis=0)


def speed(console: Console, folder: Path, rows: int) -> None:
    packed(folder / "speed", rows)
    feeds = [feed(folder / "speed", hold) for hold in ("stream", "host")]
    for name, options in (("convnet", {"groups": [[16], [32]]}), ("mlp", {"hidden": [256]})):
        tries = [epochs(one, student(name, **options), ROUNDS) for one in feeds]
        streamed, held = best(ROUNDS, *(lambda one=one: next(one) for one in tries))
        console.print(
            f"speed, {name}: streamed {streamed[0]:,.0f} images/s, in memory {held[0]:,.0f}, "
            f"ratio {streamed[0] / held[0]:.2f}; of CPU time {streamed[1] / held[1]:.2f}"
        )


class Files(Dataset[Tensor]):
    """Pictures of a folder, decoded as the feed does it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(read_picture(self.paths[row], None).transpose(2, 0, 1).copy())


def photographs(folder: Path, rows: int) -> list[Path]:
    """JPEGs of 224 pixels, of some 20 kB each."""
    draw = np.random.default_rng(0)
    for row in range(rows):
        small = draw.integers(0, 256, (28, 28, 3)).astype(np.uint8)
        picture = Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC)
        split = "test" if row % 20 == 0 else "train"
        path = folder / split / f"c{row % 3}" / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        path.write_bytes(file.getvalue())
    return sorted((folder / "train").rglob("*.jpg"))


def jpeg(console: Console, folder: Path, rows: int) -> None:
    paths = photographs(folder / "photographs", rows // 25)
    options = DataOptions(name="imagefolder", root=str(folder / "photographs"))
    started = time.perf_counter()
    size = sum(shard.file.bytes for shard in write.pack(options, folder / "jpeg"))
    seconds = time.perf_counter() - started
    console.print(
        f"pack, JPEG: {size / seconds / 1e6:,.0f} MB/s, {len(paths) / seconds:,.0f} pictures/s "
        f"({size / len(paths) / 1e3:.0f} kB each)"
    )
    streamed = feed(folder / "jpeg", "stream")
    cpus = usable_cpus()

    def ours() -> tuple[float]:
        began = time.perf_counter()
        total = sum(len(batch.labels) for batch in streamed.batches(0, 1, 128, 0, slice))
        return (total / (time.perf_counter() - began),)

    def theirs() -> tuple[float]:
        mean, std = streamed.mean, streamed.std
        loader = DataLoader(Files(paths), 128, shuffle=True, num_workers=cpus)
        began = time.perf_counter()
        total = sum(len(normalized(images, mean, std)) for images in loader)
        return (total / (time.perf_counter() - began),)

    (one,), (other,) = best(ROUNDS, ours, theirs)
    console.print(
        f"jpeg: streamed {one:,.0f} images/s, DataLoader of {cpus} processes {other:,.0f}, "
        f"ratio {one / other:.2f}"
    )


def label(console: Console, folder: Path, rows: int) -> None:
    packed(folder / "label", rows // 5)
    streamed, held = (feed(folder / "label", hold) for hold in ("stream", "host"))
    teacher = student("convnet", groups=[[32], [64]]).eval()
    torch.set_num_threads(1)

    def forward(pieces: Iterator[Tensor]) -> tuple[float, float]:
        began, cpu, total = time.perf_counter(), time.process_time(), 0
        with torch.inference_mode():
            for images in pieces:
                for some in torch.split(images, 256):
                    total += len(teacher(normalized(some, held.mean, held.std)))
        return total / (time.perf_counter() - began), total / (time.process_time() - cpu)

    def labelled() -> tuple[float, float]:
        assert isinstance(streamed.pixels, PackedImages)
        split = Split("train", streamed.pixels, streamed.labels)
        chosen = SplitRows(split, streamed.index, streamed.labels, 1, streamed.augment, 0)
        return forward(chosen.images(streamed.index))

    def bare() -> tuple[float, float]:
        assert isinstance(held.pixels, Tensor)
        return forward(iter(torch.split(held.pixels, 1024)))

    one, other = best(ROUNDS, labelled, bare)
    console.print(
        f"label: streamed {one[0]:,.0f} images/s, forward pass alone {other[0]:,.0f}, "
        f"ratio {one[0] / other[0]:.2f}; of CPU time {one[1] / other[1]:.2f}"
    )


def pack(console: Console, folder: Path, rows: int) -> None:
    size, rates = rows * int(np.prod(SHAPE)), []
    content = os.urandom(2**20)
    for number in range(ROUNDS):
        seconds = packed(folder / f"pack-{number}", rows)
        began = time.perf_counter()
        with (folder / "copy").open("wb") as file:
            for _ in range(size // len(content)):
                file.write(content)
            os.fsync(file.fileno())
        rates.append((size / seconds / 1e6, size / (time.perf_counter() - began) / 1e6))
    ours, theirs = (max(some) for some in zip(*rates, strict=True))
    console.print(
        f"pack, pixels: {ours:,.0f} MB/s, bare copy {theirs:,.0f} MB/s, ratio {ours / theirs:.2f}"
    )


def s3(console: Console, folder: Path, rows: int) -> None:
    packed(folder / "bucket" / "s3", rows)
    command = [sys.executable, str(Path(__file__).with_name("served.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            feeds = [feed(folder / "bucket" / "s3", "stream")]
            feeds.append(feed("s3://bucket/s3", "stream"))
            _s3(console, feeds)
        finally:
            server.kill()


def _s3(console: Console, feeds: Sequence[TensorFeed]) -> None:
    images = feeds[1].pixels
    assert isinstance(images, PackedImages)
    groups, files = images.groups, store("s3")

    def batches(one: TensorFeed) -> tuple[float]:
        began = time.perf_counter()
        total = sum(len(batch.labels) for batch in one.batches(0, 1, BATCH, 0, slice))
        return (total / (time.perf_counter() - began),)

    def got(place: tuple[PackedFile, int]) -> None:
        file, number = place
        start = number * groups.largest_bytes
        files.cat_file(f"bucket/s3/{file.name}", start=start, end=start + groups.largest_bytes)

    def bare() -> tuple[float]:
        began = time.perf_counter()
        with ThreadPoolExecutor(groups.readers) as pool:
            list(pool.map(got, groups.places))
        return (len(images) / (time.perf_counter() - began),)

    (disk,), (stored,), (alone,) = best(ROUNDS, *(partial(batches, one) for one in feeds), bare)
    console.print(
        f"s3: streamed {stored:,.0f} images/s, from the disk {disk:,.0f}, ratio "
        f"{stored / disk:.2f}; the same ranges alone {alone:,.0f}"
    )


PARTS = {"memory": memory, "speed": speed, "jpeg": jpeg, "label": label, "pack": pack, "s3": s3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.rows)
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Console(highlight=False), Path(folder), given.rows)


if __name__ == "__main__":
    main()
