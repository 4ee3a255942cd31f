"""Tiny sweeps in this process: real digits, students of eight units, a few epochs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import tomli_w
from tiny import tiny_table
from typer.testing import CliRunner, Result

from kd_ray.cli import app
from kd_ray.config import Recipe
from kd_ray.config.read import apply_override, parse_recipe
from kd_ray.pipeline import catalogue_problems
from kd_ray.pipeline import run as run_pipeline
from tuning import sweep
from tuning.outcome import Sweep
from tuning.trials import SweepEvent, TrialBegins, TrialOver, TrialReport

T, C, RATE = "objective.temperature", "objective.soft_weight", "train.lr"
VALIDATION, TEST = 100, 451
"""Rows."""

SPACE = {T: {"log_uniform": [1, 20]}, RATE: {"log_uniform": [0.001, 0.03]}}
GOOD, FAIR, POOR = {T: 2.0, RATE: 0.03}, {T: 4.0, RATE: 0.005}, {T: 1.0, RATE: 0.001}
"""Points in the order of their accuracy."""

BASE = ("data.fraction=0.5", f"data.validation={VALIDATION}", "train.schedule=constant")


def swept_recipe(*overrides: str, **options: Any) -> Recipe:
    """Three random trials of three epochs, each alone and to its end, unless told otherwise."""
    table = tiny_table(*BASE, "train.epochs=3")
    table["sweep"] = {
        "space": SPACE,
        "sampler": "random",
        "scheduler": "none",
        "trials": 3,
        "enqueue": [],
        "fuse": 1,
        **options,
    }
    for override in overrides:
        apply_override(table, override)
    return parse_recipe(table, "tiny", [catalogue_problems])


def swept_file(folder: Path, *overrides: str, **options: Any) -> Path:
    """`swept_recipe` as a TOML file."""
    path = folder / "tiny.toml"
    table = swept_recipe(*overrides, **options).model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def teach(runs: Path) -> Path:
    """Runs with a teacher and a transfer set; copied, they let a sweep begin at once."""
    recipe = swept_recipe().model_copy(update={"sweep": None})
    run_pipeline(recipe, runs=runs, stages=("teach", "label"), local=True)
    return runs


def search(runs: Path, *overrides: str, listener: Any = None, **options: Any) -> Sweep:
    """A sweep in this process."""
    recipe = swept_recipe(*overrides, **options)
    return sweep(recipe, runs=runs, local=True, listener=listener)


Moment = Callable[[SweepEvent], bool]


def begins(number: int) -> Moment:
    return lambda event: isinstance(event, TrialBegins) and event.point.number == number


def reports(number: int, epoch: int) -> Moment:
    return lambda event: (
        isinstance(event, TrialReport) and (event.number, event.epoch.number) == (number, epoch)
    )


def ends(number: int) -> Moment:
    return lambda event: isinstance(event, TrialOver) and event.number == number


def killed(runs: Path, moment: Moment, **options: Any) -> None:
    """A sweep that is interrupted at the first event of a kind."""

    def listener(event: SweepEvent) -> None:
        if moment(event):
            raise KeyboardInterrupt

    try:
        search(runs, listener=listener, **options)
    except KeyboardInterrupt:
        return
    raise AssertionError("the moment never came")


def entries(found: Sweep) -> list[tuple[Any, ...]]:
    """Everything of a ledger that is to come out alike, bit for bit."""
    return [
        (t.number, t.state, t.settings, t.epochs, t.values, dict(t.history), t.cause)
        for t in found.trials
    ]


def command(*arguments: Any) -> Result:
    """A command of `kd-ray tune`."""
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def refused(*arguments: Any) -> str:
    """The one line that a command of `kd-ray tune` answers with."""
    return tiny.refused("tune", *arguments, at_once=False)
