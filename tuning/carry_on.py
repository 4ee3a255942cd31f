"""The best trial of a sweep carried on: for longer from its checkpoint, or anew with other seeds.

Both make ordinary run folders, which `kd-ray distill` with their recipe would make as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from kd_ray.config import Recipe, parse_recipe
from kd_ray.errors import ConfigError
from kd_ray.pipeline import Where, catalogue_problems, run
from kd_ray.report.summary import Summary
from kd_ray.runs import Event, Task, transfer_set_folder
from kd_ray.runs.variants import own_variant
from kd_ray.training.checkpoint import epochs_in
from tuning.driver import open_sweep
from tuning.outcome import Sweep, TrialRow
from tuning.space import trial_recipe
from tuning.trial import trial_folder

FRESH_SEEDS = 3


class CarryOn(Where, total=False):
    """How a trial is carried on, beside where it is performed.

    Attributes:
        workers: processes that train together; as in the sweep by default.
        runs: folder of run folders; where the sweep's is by default.
        listener: called with every task and event.
    """

    workers: int | None
    runs: str | Path | None
    listener: Callable[[Task, Event], None] | None


def resume_trial(
    path: str | Path, epochs: int, *, trial: int | None = None, **how: Unpack[CarryOn]
) -> Summary:
    """Trains a trial on from its latest checkpoint, until it has `epochs` epochs behind it.

    The schedule is that of a run of so many epochs, entered where the trial left off.

    Args:
        path: of the sweep.
        epochs: in all.
        trial: its number; the best one by default.
        how: see `CarryOn`.

    Raises:
        ConfigError: there is no such sweep or trial, or the trial has no checkpoint.
        CheckpointError: the trial has as many epochs behind it.
    """
    sweep = open_sweep(path)
    row = sweep.trial(trial)
    recipe = trial_recipe(sweep.recipe, row.settings, [catalogue_problems])
    students = trial_folder(sweep.folder, row.number) / "student" / own_variant(recipe)
    for seed in recipe.train.seeds:
        if not epochs_in(students / f"seed-{seed}"):
            raise ConfigError(
                f"{students / f'seed-{seed}'}: a trial is resumed from its checkpoint, but trial "
                f"{row.number} ({row.state}) has none; choose another one with --trial"
            )
    changes: dict[str, dict[str, Any]] = {
        "student": {"continues": str(students), "baselines": []},
        "train": {"epochs": epochs},
    }
    return _distilled(sweep, row, recipe, f"{epochs}-epochs", changes, **how)


def retrain_trial(
    path: str | Path,
    seeds: Sequence[int] | None = None,
    *,
    trial: int | None = None,
    epochs: int | None = None,
    **how: Unpack[CarryOn],
) -> Summary:
    """Trains a trial anew, with seeds that played no part in choosing it, and its baselines.

    The winner of a sweep owes some of its figure to luck; fresh seeds have a mean without that.

    Args:
        path: of the sweep.
        seeds: of the students; three that the sweep did not use by default.
        trial: its number; the best one by default.
        epochs: in all; as in the sweep by default.
        how: see `CarryOn`.

    Raises:
        ConfigError: there is no such sweep or trial, or a seed is one of the sweep's.
    """
    sweep = open_sweep(path)
    row = sweep.trial(trial)
    recipe = trial_recipe(sweep.recipe, row.settings, [catalogue_problems])
    first = max(sweep.options.seeds) + 1
    wanted = list(range(first, first + FRESH_SEEDS)) if seeds is None else list(seeds)
    used = sorted(set(wanted) & set(sweep.options.seeds))
    if used:
        raise ConfigError(
            f"--seeds: must be fresh ones, for a figure that owes nothing to the choice of the "
            f"trial, but the sweep trained with {used}; use others, such as {first}"
        )
    train = {"seeds": wanted} if epochs is None else {"seeds": wanted, "epochs": epochs}
    ending = "again" if epochs is None else f"again-{epochs}-epochs"
    return _distilled(sweep, row, recipe, ending, {"train": train}, **how)


def _distilled(
    sweep: Sweep,
    row: TrialRow,
    recipe: Recipe,
    ending: str,
    changes: dict[str, dict[str, Any]],
    *,
    workers: int | None = None,
    runs: str | Path | None = None,
    listener: Callable[[Task, Event], None] | None = None,
    **where: Unpack[Where],
) -> Summary:
    """Distills from the sweep's transfer set, with a trial's recipe and some changes to it."""
    transfer_set = transfer_set_folder(sweep.recipe, sweep.folder.parent).absolute()
    changes["transfer_set"] = {"path": str(transfer_set)}
    if workers is not None:
        changes["resources"] = {"workers": workers}
    table = recipe.model_dump(mode="json", exclude_none=True)
    for key, values in changes.items():
        table[key] |= values
    table["name"] = f"{sweep.recipe.name}-trial-{row.number}-{ending}"
    changed = parse_recipe(table, table["name"], [catalogue_problems])
    home = sweep.folder.parent.parent if runs is None else runs
    return run(changed, runs=home, stages=("distill",), listener=listener, **where)
