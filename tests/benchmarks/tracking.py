"""What trackers cost a run, beside the same run without one.

    uv run python tests/benchmarks/tracking.py [--recipe quickstart] [--epochs 60] [--rounds 2]

The same run in this process, without a tracker and with each, in turn; of each the round that took
least. Printed are the CPU time of all its threads and helpers, the seconds that the training was
held up by its events, and those that the run waited at its end, most of them for its report.
"""

import argparse
import resource
import tempfile
import time
import warnings
from pathlib import Path

from kd_ray.pipeline import open_recipe, run
from kd_ray.tracking.listener import Tracking

TRACKERS = {
    "none": None,
    "tensorboard": "tracking.tensorboard=true",
    "mlflow": "tracking.mlflow=sqlite:///{home}/mlflow.db",
    "wandb": "tracking.wandb=benchmark",
    "trackio": "tracking.trackio=benchmark",
}
spent = {"note": 0.0, "close": 0.0, "finish": 0.0}


def timed(name: str) -> None:
    """Adds up the seconds that a method of the listener takes."""
    method = getattr(Tracking, name)

    def wrapper(*arguments: object) -> None:
        began = time.perf_counter()
        try:
            method(*arguments)
        finally:
            spent[name] += time.perf_counter() - began

    setattr(Tracking, name, wrapper)


def cpu_s() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(recipe: str, epochs: int, override: str | None) -> tuple[float, float, list[float]]:
    """CPU and wall seconds of a run, and the seconds of each of `spent`."""
    with tempfile.TemporaryDirectory() as home:
        overrides = [f"train.epochs={epochs}", f"teacher.train.epochs={epochs}"]
        overrides += ["train.seeds=[0]", *([override.format(home=home)] if override else [])]
        before, began = cpu_s(), time.perf_counter()
        spent.update(dict.fromkeys(spent, 0.0))
        run(open_recipe(recipe, overrides), runs=Path(home) / "runs", local=True)
        return cpu_s() - before, time.perf_counter() - began, list(spent.values())


def main() -> None:
    """Prints a line for each tracker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--epochs", default=60, type=int)
    parser.add_argument("--rounds", default=2, type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in spent:
        timed(name)
    measured(given.recipe, 1, None)
    for name, override in TRACKERS.items():
        tries = [measured(given.recipe, given.epochs, override) for _ in range(given.rounds)]
        cpu, wall, (note, close, finish) = min(tries)
        told = f"CPU {cpu:6.2f} s  wall {wall:6.2f} s  events {note:.3f} s ({note / wall:.2%})"
        print(f"{name:12} {told}  end {close:.2f} s, report {finish:.2f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
