"""Trials per hour of a sweep, beside what one would write instead; one run, the same trials.

    uv run python tests/benchmarks/sweep_throughput.py [--trials 24] [--epochs 40] [--nested 4]

Students of the digits, a random draw of T, c / T^2 and learning rate, nobody stopped early:

- kd-ray: `tuning.sweep` on two CPUs, one-worker trials in two actors that are used again;
- TorchTrainer each: Ray Tune over a TorchTrainer per trial, two side by side, as Ray's guide to
  Tune with Train has it (fewer trials, for they take long);
- plain Optuna: `study.optimize` in one process with torch's own number of threads.

Printed are the wall time over (sum of the trials' own training seconds / 2), Ray's start-up apart,
the longest pause between two trials of an actor, and trials per hour of each way.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from kd_ray.config import Recipe
from kd_ray.config.read import parse_recipe

SLOTS = 2


def make_recipe(trials: int, epochs: int) -> Recipe:
    table: dict[str, Any] = {
        "name": "throughput",
        "data": {"name": "digits", "validation": 200},
        "teacher": {
            "model": {"name": "convnet", "groups": [[16], [32]]},
            "train": {"epochs": 3, "batch_size": 64, "lr": 3e-3},
        },
        "student": {"model": {"name": "convnet", "groups": [[32], [64, 64]]}},
        "train": {"epochs": epochs, "batch_size": 64, "lr": 3e-3},
        "resources": {"cpus_per_worker": 1},
        "sweep": {
            "trials": trials,
            "sampler": "random",
            "scheduler": "none",
            "enqueue": [],
            "fuse": 1,
            "space": {
                "objective.temperature": {"log_uniform": [1.0, 20.0]},
                "objective.soft_weight": {"log_uniform": [0.1, 10.0], "times": "T^2"},
                "train.lr": {"log_uniform": [1e-3, 1e-2]},
            },
        },
    }
    return parse_recipe(table, "benchmark")


class Clock:
    """Listens to a sweep and notes when its trials computed."""

    def __init__(self) -> None:
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.last: dict[int, tuple[float, float]] = {}
        self.follows: dict[int, int] = {}
        self._free: list[int] = []

    def hear(self, event: Any) -> None:
        from tuning.trials import TrialBegins, TrialOver, TrialReport

        now = time.perf_counter()
        if isinstance(event, TrialBegins) and self._free:
            self.follows[event.point.number] = self._free.pop(0)
        elif isinstance(event, TrialReport):
            seconds = event.epoch.metrics["seconds"]
            self.begun.setdefault(event.number, now - seconds)
            self.last[event.number] = (now, seconds)
        elif isinstance(event, TrialOver):
            self.ended[event.number] = now
            self._free.append(event.number)

    def pauses(self) -> list[float]:
        """From the end of a trial's last epoch to the start of the next one's first."""
        return [
            self.begun[after] - sum(self.last[before]) for after, before in self.follows.items()
        ]


def by_kd_ray(recipe: Recipe, runs: Path) -> dict[str, float]:
    from tuning import sweep

    clock = Clock()
    called = time.perf_counter()
    found = sweep(recipe, runs=runs, listener=clock.hear)
    first, last = min(clock.begun.values()), max(clock.ended.values())
    own = [trial.seconds or 0.0 for trial in found.trials]
    return {
        "trials": len(own),
        "wall": last - first,
        "start": first - called,
        "own": sum(own),
        "pause": median(clock.pauses()),
        "longest pause": max(clock.pauses()),
    }


def trial_lists(recipe: Recipe, runs: Path, count: int) -> list[list[Any]]:
    """Tasks of the sweep's own trials, to be trained anew below `runs`."""
    from tuning import open_sweep
    from tuning.space import trial_recipe
    from tuning.trial import trial_tasks

    found = open_sweep(runs / recipe.name)
    return [
        trial_tasks(
            trial_recipe(recipe, trial.settings),
            runs / f"again-{time.monotonic_ns()}",
            trial.number,
            transfer_set=runs / recipe.name / "transfer_set",
            data_root=None,
        )
        for trial in found.trials[:count]
    ]


def by_torch_trainers(recipe: Recipe, runs: Path, count: int) -> dict[str, float]:
    """Ray's own pattern: the trial function starts a TorchTrainer of one worker and waits."""
    from kd_ray.on_ray import connected

    with connected():
        import ray.train
        from ray import tune
        from ray.train.torch import TorchTrainer

        def work(config: dict[str, Any]) -> None:
            import torch

            from kd_ray.runs import perform_all
            from kd_ray.training.workers import Worker

            alone = Worker(rank=0, world=1, device=torch.device("cpu"), threads=1)
            for _ in perform_all(config["tasks"], alone):
                pass
            ray.train.report({"done": 1})

        def trial(config: dict[str, Any]) -> None:
            TorchTrainer(
                work,
                train_loop_config=config,
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1, resources_per_worker={"CPU": 1}
                ),
                run_config=ray.train.RunConfig(name="t", storage_path=tempfile.mkdtemp(dir=runs)),
            ).fit()
            tune.report({"done": 1})

        lists = trial_lists(recipe, runs, count)
        started = time.perf_counter()
        tune.Tuner(
            tune.with_resources(trial, {"memory": 2**28}),
            param_space={"tasks": tune.grid_search(lists)},
            tune_config=tune.TuneConfig(max_concurrent_trials=SLOTS),
            run_config=tune.RunConfig(name="n", storage_path=str(runs / "tune"), verbose=0),
        ).fit()
        return {"trials": count, "wall": time.perf_counter() - started}


def by_optuna(recipe: Recipe, runs: Path, count: int) -> dict[str, float]:
    """One process, one trial after the other, on torch's own number of threads."""
    import optuna
    import torch

    from kd_ray.runs import Finished, Inputs, perform_interleaved
    from kd_ray.training.workers import Worker

    lists = trial_lists(recipe, runs, count)
    worker = Worker(0, 1, torch.device("cpu"), torch.get_num_threads())
    inputs = Inputs()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        accuracy = 0.0
        for _, event in perform_interleaved(lists[trial.number], worker, inputs):
            if isinstance(event, Finished):
                accuracy = event.result.metrics["accuracy"]
        return accuracy

    started = time.perf_counter()
    study.optimize(objective, n_trials=count)
    return {"trials": count, "wall": time.perf_counter() - started, "threads": worker.threads}


WAYS = {"kd-ray": by_kd_ray, "TorchTrainer each": by_torch_trainers, "plain Optuna": by_optuna}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--nested", type=int, default=4, help="Trials of a TorchTrainer each.")
    parser.add_argument("--way", choices=[*WAYS], help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = make_recipe(options.trials, options.epochs)
    if options.way == "kd-ray":
        Console().print_json(data=by_kd_ray(recipe, options.runs))
        return
    if options.way:
        count = options.nested if options.way == "TorchTrainer each" else options.trials
        found = WAYS[options.way](recipe, options.runs, count)  # type: ignore[operator]
        Console().print_json(data=found)
        return
    with tempfile.TemporaryDirectory() as folder:
        report({way: measured(way, Path(folder), options) for way in WAYS})


def measured(way: str, runs: Path, options: argparse.Namespace) -> dict[str, float]:
    """One way in a process of its own, with the threads that it would have there."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    numbers = ("trials", "epochs", "nested")
    chosen = [part for name in numbers for part in (f"--{name}", str(getattr(options, name)))]
    answer = subprocess.run(
        [sys.executable, __file__, "--way", way, "--runs", runs, *chosen],
        capture_output=True,
        text=True,
        env=environment,
    )
    if answer.returncode:
        sys.exit(answer.stderr)
    return dict(json.loads(answer.stdout[answer.stdout.index("{") :]))


def report(found: dict[str, dict[str, float]]) -> None:
    console = Console()
    ours = found["kd-ray"]
    console.print(
        f"{ours['trials']:.0f} trials of {ours['own'] / ours['trials']:.1f} s, {SLOTS} CPUs: wall "
        f"{ours['wall']:.1f} s, {ours['wall'] / (ours['own'] / SLOTS):.3f} of the trials' own "
        f"seconds / {SLOTS}; start-up {ours['start']:.1f} s; between two trials of an actor "
        f"{ours['pause']:.2f} s, at most {ours['longest pause']:.2f} s"
    )
    per_hour = {way: 3600 * figures["trials"] / figures["wall"] for way, figures in found.items()}
    for way, rate in per_hour.items():
        ratio = per_hour["kd-ray"] / rate
        console.print(f"{way:18} {rate:8.0f} trials per hour, kd-ray makes {ratio:.2f} times that")


if __name__ == "__main__":
    main()
