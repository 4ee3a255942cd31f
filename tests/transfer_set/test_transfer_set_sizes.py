"""Sizes that are known before the work: those of files that are written, and those of the guide."""

from pathlib import Path

from tiny_sets import tiny_plan, write_all

import kd_ray
from kd_ray.transfer_set import set_bytes as written_bytes
from kd_ray.transfer_set.sizes import Labelling, set_bytes
from kd_ray.units import bytes_shown

GUIDE = Path(kd_ray.__file__).parent / "transfer_set" / "README.md"
JOBS = {
    "ImageNet-1k, 64 views": (1_281_167, 1000, 64),
    "ImageNet-21k, 8 views": (14_197_122, 21_841, 8),
    "100 million, 1 view": (100_000_000, 15_000, 1),
}


def job(name: str, gpus: int = 8, dtype: str = "float16") -> Labelling:
    images, classes, views = JOBS[name]
    return Labelling(images=images, classes=classes, views=views, dtype=dtype, gpus=gpus)


def test_set_bytes_are_those_of_files_that_are_written(tmp_path: Path) -> None:
    for dtype in ("float16", "float32"):
        plan = tiny_plan(
            train=3000, validation=0, test=500, classes=40, dtype=dtype, shard_rows=1000
        )
        written = written_bytes(write_all(tmp_path / dtype, plan))
        expected = set_bytes(dtype, 3500, classes=40, files=4)
        assert 0.94 < written / expected < 1.06, (written, expected)


def test_the_guide_has_the_sizes_of_three_large_sets() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for name in JOBS:
        one = job(name)
        sizes = (
            bytes_shown(job(name, dtype=d).bytes) for d in ("float16", "compact", "compact-tenth")
        )
        cells = [name, f"{one.rows / 1e6:,.1f} M", *sizes, f"{one.gpu_hours:,.1f}"]
        cells += [f"{60 * job(name, gpus).hours:,.1f}" for gpus in (8, 256)]
        assert f"| {' | '.join(cells)} |" in guide


def test_the_guide_has_what_disks_and_cores_must_give() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for gpus in (8, 256):
        one = job("100 million, 1 view", gpus)
        small = job("100 million, 1 view", gpus, "compact")
        cells = [
            str(gpus),
            f"{gpus * one.teacher_images_per_s:,.0f}",
            f"{gpus * one.cores_per_gpu:,.0f}",
            f"{bytes_shown(one.read_bytes_per_s)}/s",
            f"{bytes_shown(one.written_bytes_per_s)}/s",
            f"{bytes_shown(small.written_bytes_per_s)}/s",
        ]
        assert f"| {' | '.join(cells)} |" in guide
