"""Running a sweep with a display, and what is printed of one."""

from typing import Unpack

import tomli_w
from rich.console import Console

from kd_ray.cli.display import Display
from kd_ray.cli.sweep_display import SweepDisplay
from kd_ray.cli.tables import facts, fitting_table
from kd_ray.files import to_path
from kd_ray.pipeline import Where, open_recipe
from tuning.driver import check_sweep, open_sweep, sweep
from tuning.outcome import BEST, PAGE, TRIALS, Sweep
from tuning.space import names_shown
from tuning.trials import SweepEvent


def sweep_with_display(
    source: str, overrides: list[str], runs: str, **where: Unpack[Where]
) -> None:
    """Runs a sweep; see `tuning.sweep` for arguments and errors."""
    console = Console(highlight=False, markup=False)
    recipe = open_recipe(source, overrides)
    options = check_sweep(recipe)
    if options.hold_out and not recipe.data.validation:
        console.print(
            f"Trials are compared by {options.hold_out:.0%} of the transfer set's training rows, "
            "on which none of them is trained."
        )
    with Display(console) as stages, SweepDisplay(console, options) as trials:

        def show_trial(event: SweepEvent) -> None:
            trials.show(event)
            stages.heartbeat.note("sweep", trials.standing())

        found = sweep(recipe, runs=runs, stage_listener=stages.show, listener=show_trial, **where)
    _print_best(console, found)
    folder = to_path(runs) / recipe.name / "sweep"
    console.print(
        f"{found.count('finished')} trials finished, {found.count('stopped')} stopped early, "
        f"{found.count('failed')} failed"
    )
    for file in (PAGE, TRIALS, BEST):
        console.print(f"{folder / file}: written", soft_wrap=True)


def show_trials(path: str) -> None:
    """Prints every trial of a sweep."""
    found = open_sweep(path)
    rows = [found.cells(trial) for trial in found.trials]
    console = Console(highlight=False, markup=False)
    if not rows:
        console.print(f"{path}: no trial has been begun")
        return
    _print_table(console, found, f"{len(rows)} trials, validation rows", rows)
    for trial in found.trials:
        if trial.cause:
            console.print(f"trial {trial.number} failed: {trial.cause}")


def show_best(path: str) -> None:
    """Prints the best trial with its recipe, or the whole front."""
    found = open_sweep(path)
    winner = found.trial()
    console = Console(highlight=False, markup=False)
    _print_best(console, found)
    entry = next((entry for entry in found.best if entry["trial"] == winner.number), None)
    if entry is None:
        console.print("The sweep has not ended, so the test split has not been looked at.")
        return
    if len(found.options.metrics) == 1:
        about = {
            f"{split} {name}": value
            for split in ("validation", "test")
            for name, value in entry[split].items()
            if name in ("accuracy", "errors", "agreement", "loss")
        }
        about |= {f"checkpoint {n}": path for n, path in enumerate(entry["checkpoints"])}
        console.print(facts(f"trial {winner.number}", about))
    console.print(tomli_w.dumps(entry["recipe"]), soft_wrap=True)
    # Behind the recipe, which people copy: a comment in it.
    console.print(f"# files of it: kd-ray export {path} --format onnx", soft_wrap=True)


def _print_best(console: Console, found: Sweep) -> None:
    if not found.front:
        console.print("No trial has finished.")
        return
    tests = {entry["trial"]: entry["test"] for entry in found.best}
    rows = []
    for trial in found.front:
        cells = found.cells(trial)
        del cells["state"], cells["seconds"]
        if (test := tests.get(trial.number)) is not None:
            cells["test %"] = f"{100 * test['accuracy']:.2f}"
            cells["test errors"] = f"{test['errors']:,.1f}".removesuffix(".0")
        rows.append(cells)
    what = "the best trial" if len(found.options.metrics) == 1 else "the Pareto front"
    _print_table(console, found, what, rows)


def _print_table(console: Console, found: Sweep, what: str, rows: list[dict[str, str]]) -> None:
    leaving = ["seconds", "epochs", *reversed(names_shown(found.options))]
    title = f"{found.recipe.name}: {what}"
    console.print(fitting_table(title, rows, console.width, leaving))
