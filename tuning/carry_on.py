"""The best trial of a sweep carried on: for longer from its checkpoint, or anew with other seeds.

Both make ordinary run folders, which `kd-ray distill` with their recipe would make as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe, parse_recipe
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.pipeline import catalogue_problems, run
from kd_ray.report.summary import Summary
from kd_ray.runs import Event, Task, transfer_set_folder
from kd_ray.runs.variants import own_variant
from kd_ray.training.checkpoint import epochs_in
from tuning.driver import open_sweep
from tuning.outcome import Sweep, TrialRow
from tuning.space import trial_recipe
from tuning.trial import trial_folder

FRESH_SEEDS = 3


def resume_trial(
    path: str | Path,
    epochs: int,
    *,
    trial: int | None = None,
    workers: int | None = None,
    runs: str | Path | None = None,
    local: bool = False,
    address: str | None = None,
    verbose: bool = False,
    listener: Callable[[Task, Event], None] | None = None,
) -> Summary:
    """Trains a trial on from its latest checkpoint, until it has `epochs` epochs behind it.

    The schedule is that of a run of so many epochs, entered where the trial left off.

    Args:
        path: of the sweep.
        epochs: in all.
        trial: its number; the best one by default.
        workers: processes that train together; as in the sweep by default.
        runs: folder of run folders; where the sweep's is by default.
        local: in this process, without Ray.
        address: HOST:PORT of a Ray cluster.
        verbose: let Ray's own log lines through.
        listener: called with every task and event.

    Raises:
        ConfigError: there is no such sweep or trial, or the trial has no checkpoint.
        CheckpointError: the trial has as many epochs behind it.
    """
    sweep = open_sweep(path)
    row = chosen(sweep, trial)
    recipe = _recipe_of(sweep, row)
    students = trial_folder(sweep.folder, row.number) / "student" / own_variant(recipe)
    for seed in recipe.train.seeds:
        if not epochs_in(students / f"seed-{seed}"):
            raise ConfigError(
                f"{students / f'seed-{seed}'}: a trial is resumed from its checkpoint, but trial "
                f"{row.number} ({row.state}) has none; choose another one with --trial"
            )
    recipe = _changed(
        recipe,
        {
            "name": f"{recipe.name}-{epochs}-epochs",
            "student": {"continues": str(students), "baselines": []},
            "train": {"epochs": epochs},
            "resources": {} if workers is None else {"workers": workers},
        },
    )
    return run(
        recipe,
        runs=_runs(sweep, runs),
        stages=("distill",),
        local=local,
        address=address,
        verbose=verbose,
        listener=listener,
    )


def retrain_trial(
    path: str | Path,
    seeds: Sequence[int] | None = None,
    *,
    trial: int | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    runs: str | Path | None = None,
    local: bool = False,
    address: str | None = None,
    verbose: bool = False,
    listener: Callable[[Task, Event], None] | None = None,
) -> Summary:
    """Trains a trial anew, with seeds that played no part in choosing it, and its baselines.

    The winner of a sweep owes some of its figure to luck; fresh seeds have a mean without that.

    Args:
        path: of the sweep.
        seeds: of the students; three that the sweep did not use by default.
        trial: its number; the best one by default.
        epochs: in all; as in the sweep by default.
        workers: as of `resume_trial`, and so the others.
        runs: folder of run folders; where the sweep's is by default.
        local: in this process, without Ray.
        address: HOST:PORT of a Ray cluster.
        verbose: let Ray's own log lines through.
        listener: called with every task and event.

    Raises:
        ConfigError: there is no such sweep or trial, or a seed is one of the sweep's.
    """
    sweep = open_sweep(path)
    row = chosen(sweep, trial)
    recipe = _recipe_of(sweep, row)
    first = max(sweep.options.seeds) + 1
    wanted = list(range(first, first + FRESH_SEEDS)) if seeds is None else list(seeds)
    used = sorted(set(wanted) & set(sweep.options.seeds))
    if used:
        raise ConfigError(
            f"--seeds: must be fresh ones, for a figure that owes nothing to the choice of the "
            f"trial, but the sweep trained with {used}; use others, such as {first}"
        )
    recipe = _changed(
        recipe,
        {
            "name": f"{recipe.name}-again{'' if epochs is None else f'-{epochs}-epochs'}",
            "train": {"seeds": wanted, **({} if epochs is None else {"epochs": epochs})},
            "resources": {} if workers is None else {"workers": workers},
        },
    )
    return run(
        recipe,
        runs=_runs(sweep, runs),
        stages=("distill",),
        local=local,
        address=address,
        verbose=verbose,
        listener=listener,
    )


def chosen(sweep: Sweep, number: int | None) -> TrialRow:
    """A trial by number, or the best one.

    Raises:
        ConfigError: no such trial, or no trial has finished.
    """
    if number is not None:
        return sweep.trial(number)
    if not sweep.front:
        raise ConfigError(
            f"{sweep.folder}: none of its {len(sweep.trials)} trials has finished yet; go on with "
            "the sweep, or choose a trial with --trial"
        )
    return sweep.front[0]


def _recipe_of(sweep: Sweep, row: TrialRow) -> Recipe:
    """The recipe of a trial, with a name and the sweep's transfer set by its path."""
    recipe = trial_recipe(sweep.recipe, row.settings, [catalogue_problems])
    transfer_set = transfer_set_folder(sweep.recipe, sweep.folder.parent).absolute()
    return _changed(
        recipe,
        {
            "name": f"{sweep.recipe.name}-trial-{row.number}",
            "transfer_set": {"path": str(transfer_set)},
        },
    )


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    table = recipe.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        table[key] = {**table[key], **value} if isinstance(value, dict) else value
    return parse_recipe(table, table["name"], [catalogue_problems])


def _runs(sweep: Sweep, runs: str | Path | None) -> Path:
    return sweep.folder.parent.parent if runs is None else to_path(runs)
