"""Trials per hour of a sweep whose trials are trained as one, beside one after the other; one run.

    uv run python tests/benchmarks/fused_sweep.py [--trials 24] [--epochs 4] [--repeats 3]

Students of MNIST with two layers of 100 and of 800 units, a random draw of T, c / T^2 and learning
rate, nobody stopped early, in this process with all of its threads. `sweep.fuse` is "auto" or 1;
repeats alternate, and the least time of each counts, from the first trial's begin to the last
one's end; what comes after them, such as the page, is there once whatever their number.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from kd_ray.config import Recipe
from kd_ray.config.read import parse_recipe
from kd_ray.pipeline import run
from tuning import sweep
from tuning.trials import SweepEvent, TrialBegins, TrialOver


def make_recipe(width: int, fuse: Any, trials: int, epochs: int, rows: float) -> Recipe:
    table: dict[str, Any] = {
        "name": f"fused-{width}",
        "data": {"name": "mnist", "fraction": rows, "validation": 1000},
        "teacher": {
            "model": {"name": "mlp", "hidden": [100]},
            "train": {"epochs": 1, "batch_size": 100, "lr": 1e-3},
        },
        "student": {"model": {"name": "mlp", "hidden": [width, width]}, "baselines": []},
        "train": {"epochs": epochs, "batch_size": 100, "lr": 1e-3},
        "sweep": {
            "trials": trials,
            "sampler": "random",
            "scheduler": "none",
            "enqueue": [],
            "fuse": fuse,
            "space": {
                "objective.temperature": {"log_uniform": [1.0, 20.0]},
                "objective.soft_weight": {"log_uniform": [0.1, 10.0], "times": "T^2"},
                "train.lr": {"log_uniform": [1e-4, 1e-2]},
            },
        },
    }
    return parse_recipe(table, "benchmark")


def seconds(recipe: Recipe, taught: Path) -> float:
    """Of a sweep's trials, on a copy of runs with its teacher and transfer set."""
    heard: list[float] = []

    def hear(event: SweepEvent) -> None:
        if isinstance(event, TrialBegins | TrialOver):
            heard.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(taught, Path(folder) / "runs")
        sweep(recipe, runs=Path(folder) / "runs", local=True, listener=hear)
        return heard[-1] - heard[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fraction", type=float, default=0.2, help="of MNIST's training rows")
    given = parser.parse_args()
    say = Console(width=120).print
    say("| student | one after the other, trials/h | as one, trials/h | ratio |\n|---|---|---|---|")
    for width in (100, 800):
        recipes = {
            fuse: make_recipe(width, fuse, given.trials, given.epochs, given.fraction)
            for fuse in (1, "auto")
        }
        with tempfile.TemporaryDirectory() as taught:
            first = recipes[1].model_copy(update={"sweep": None})
            run(first, runs=taught, stages=("teach", "label"), local=True)
            took: dict[Any, list[float]] = {fuse: [] for fuse in recipes}
            for _ in range(given.repeats):
                for fuse, recipe in recipes.items():
                    took[fuse].append(seconds(recipe, Path(taught)))
        rates = [given.trials / min(took[fuse]) * 3600 for fuse in recipes]
        say(f"| 2 x {width} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |")


if __name__ == "__main__":
    main()
