"""A sweep from its recipe to its files: teach, label, many students, the best one tested.

Everything lies in the run folder of the recipe's name: teacher and transfer set as `kd-ray run`
makes them, and `sweep/` with the study, a folder for each trial, and what came of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from kd_ray.config import Recipe, SweepOptions, load_recipe
from kd_ray.errors import ConfigError, TrainingError
from kd_ray.files import is_stored, locked, remove_drafts, to_path
from kd_ray.pipeline import (
    Run,
    Where,
    absolute_root,
    catalogue_problems,
    open_recipe,
    this_process,
    with_absolute_paths,
    write_recipe,
)
from kd_ray.report.html import write_page
from kd_ray.result import SWEEP as SWEEP_KIND
from kd_ray.result import Result, read_result, write_result
from kd_ray.runs import Event, Inputs, Task, result_model, transfer_set_folder
from kd_ray.runs.distill import quantizer_table
from kd_ray.runs.fit import determining, flattened, sha256_of_files
from kd_ray.runs.folder import RECIPE, SWEEP
from kd_ray.tracking.listener import check_trackers, tracking
from kd_ray.training.evaluation import evaluate
from kd_ray.training.saved_model import load_model
from kd_ray.training.student import ensemble_of
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import Manifest, read_manifest
from kd_ray.versions import versions
from tuning.ledger import STATES, STUDY, Ledger, open_study
from tuning.on_tune import perform_here, perform_on_tune
from tuning.outcome import (
    PAGE,
    Sweep,
    TrialRow,
    read_best,
    read_trials,
    write_best,
    write_trials,
)
from tuning.page import page
from tuning.space import first_points, space_problems
from tuning.study_file import answering
from tuning.tracked import TrackedTrials
from tuning.trial import averaged, trial_folder
from tuning.trials import SweepBegins, SweepEvent, Trials

if TYPE_CHECKING:
    from optuna import Study

OF_TEACHER = {"agreement", "divergence"}
"""Metrics that need the teacher's logits of the rows they are of."""


def sweep(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    stage_listener: Callable[[Task, Event], None] | None = None,
    listener: Callable[[SweepEvent], None] | None = None,
    **where: Unpack[Where],
) -> Sweep:
    """Searches the space of a recipe's `[sweep]`, going on where an earlier call left off.

    Args:
        recipe: a recipe, its path, or the name of a shipped one.
        overrides: `key.path=value`; only with a path or a name.
        runs: folder of run folders, or its URL in a store; the sweep lies in `runs/NAME/sweep`.
        stage_listener: called with the events of teacher and labelling.
        listener: called with the events of trials.
        where: see `pipeline.Where`; `local` trains one trial after the other.

    Raises:
        TrainingError: more trials failed than `sweep.max_failures`.
        KdRayError: see its children; what was done until then stays, and is resumed.
    """
    read = recipe if isinstance(recipe, Recipe) else open_recipe(recipe, overrides)
    opened = with_absolute_paths(read)
    check_sweep(opened)
    run = Run(opened, to_path(runs).absolute() / opened.name, **where)
    here = this_process(opened.resources) if run.local else None
    check_trackers(opened, run.folder)
    if opened.transfer_set.path is None:
        for task, event in run.events(("teach", "label")):
            if stage_listener is not None:
                stage_listener(task, event)
    folder = run.folder / SWEEP
    transfer_set = transfer_set_folder(opened, run.folder).absolute()
    manifest = read_manifest(transfer_set)
    validation = manifest.plan.splits["validation"]
    if not validation.dataset_rows:
        _check_held_out(opened, f"{transfer_set} has none")
    elif not validation.rows and opened.sweep and {*opened.sweep.metrics} & OF_TEACHER:
        raise ConfigError(
            f"recipe {opened.name}: {' and '.join(sorted(OF_TEACHER))} compare with the teacher's "
            f"logits of validation rows, but {transfer_set} has none; choose another sweep.metric, "
            "or import them, too"
        )
    with locked(folder), tracking(opened, run.folder, f"{SWEEP}/all") as trackers:
        remove_drafts(folder)
        ledger = Ledger(folder, opened, sweep_identity(opened, manifest))
        write_recipe(folder, opened)
        tracked = TrackedTrials(trackers, folder, ledger.options.metrics, listener)
        listen = tracked.note
        trials = Trials(opened, ledger, folder, transfer_set, absolute_root(opened), listen)
        found = _sweep_at(folder, opened, ledger.study)
        tracked.catch_up(found.trials)
        best = [(trial.number, trial.values[0]) for trial in found.front[:1]]
        over = sum(trial.state != "running" for trial in found.trials)
        listen(SweepBegins(over, ledger.left, best[0] if best else None))
        if ledger.left and not ledger.gave_up:
            if here is not None:
                perform_here(trials, here)
            else:
                perform_on_tune(trials, run.address, run.verbose)
        found = _finish(trials, manifest)
        trackers.finish(lambda: folder / PAGE, _result(found, manifest).metrics)
    if ledger.gave_up:
        causes = [trial.cause for trial in found.trials if trial.cause]
        raise TrainingError(
            f"{folder}: {ledger.failures} trials failed, and sweep.max_failures is "
            f"{ledger.options.max_failures}; the last because: {causes[-1]}; mend it, raise "
            "max_failures, and run the same again"
        )
    return found


def check_sweep(recipe: Recipe) -> SweepOptions:
    """The `[sweep]` of a recipe, when it can be searched.

    Raises:
        ConfigError: there is none, its space does not fit the recipe, or nothing can be compared.
    """
    if recipe.sweep is None:
        raise ConfigError(
            f"recipe {recipe.name}: a sweep needs a [sweep.space] table, but there is none; add "
            'one such as "objective.temperature" = { log_uniform = [1, 20] }'
        )
    problems = space_problems(recipe, [catalogue_problems])
    if problems:
        raise ConfigError(f"recipe {recipe.name}: " + "\n  ".join(problems))
    if recipe.transfer_set.path is None and not recipe.data.validation:
        _check_held_out(recipe, "data.validation is 0")
    first_points(recipe)
    workers, fuse = recipe.resources.most_workers, recipe.sweep.fuse
    if workers > 1 and fuse not in ("auto", 1):
        raise ConfigError(
            f"recipe {recipe.name}: sweep.fuse: {fuse} students must be trainable as one, but each "
            f'is trained by {workers} workers; use fuse = "auto", or 1'
        )
    return recipe.sweep


def _check_held_out(recipe: Recipe, got: str) -> None:
    """Refuses a sweep without validation rows whose students keep no other rows to compare by."""
    if not (recipe.train.hold_out or (recipe.sweep and recipe.sweep.hold_out)):
        raise ConfigError(
            f"recipe {recipe.name}: trials are compared by validation rows, but {got}; carve some "
            "from the training split with data.validation, or hold some rows of the transfer set "
            "out with sweep.hold_out, so that the test split is left for the winner"
        )


def _sweep_at(folder: Path, recipe: Recipe, study: "Study") -> Sweep:
    assert recipe.sweep is not None
    with answering(folder / STUDY, Exception):
        return Sweep(folder, recipe, study, read_trials(study, recipe.sweep), *read_best(folder))


def sweep_identity(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """What determines the trials of a sweep: dotted key -> value."""
    assert recipe.sweep is not None
    model, left_out = recipe.student.model, {"trials", "max_failures", "fuse"}
    left_out |= set() if recipe.sweep.hold_out else {"hold_out"}  # as it was before there was one
    parts: dict[str, Any] = {
        "student.model": model.determining | sha256_of_files(**model.sources),
        "objective": determining(recipe.objective),
        "train": recipe.train.model_dump(mode="json", exclude={"seeds"}),
        "sweep": recipe.sweep.model_dump(mode="json", exclude=left_out, exclude_none=True),
        "transfer_set": manifest.sha256,
    }
    quantizer = quantizer_table(recipe)
    if quantizer is not None:
        parts["student.quantizer"] = quantizer
    if recipe.student.continues is not None:
        parts["student.continues"] = recipe.student.continues
    return flattened(parts)


def open_sweep(path: str | Path) -> Sweep:
    """A sweep that was begun, as it is on disk, by its folder or the run folder that it lies in.

    Raises:
        ConfigError: there is no sweep.
    """
    given = to_path(path).absolute()
    folder = given if (given / STUDY).is_file() else given / SWEEP
    study = open_study(folder)
    recipe = load_recipe(folder / RECIPE)
    if recipe.sweep is None:
        raise ConfigError(f"{folder / RECIPE}: has no [sweep]; run the sweep again to mend it")
    return _sweep_at(folder, recipe, study)


def is_sweep(path: Path) -> bool:
    """Whether a folder is that of a sweep, or the run folder of one."""
    return (path / STUDY).is_file() or (path / SWEEP / STUDY).is_file()


def best_students(path: str | Path) -> list[Path]:
    """Folders of the students of the best trial, or of all trials of the front.

    Raises:
        ConfigError: there is no sweep, or no trial has finished.
    """
    found = open_sweep(path)
    found.trial()  # or it says that none has finished
    homes = [trial_folder(found.folder, trial.number) for trial in found.front]
    return [student for home in homes for student in sorted(home.glob("student/*/seed-*"))]


def _finish(trials: Trials, manifest: Manifest) -> Sweep:
    """Writes every file about a sweep, and looks at the test split for its winner."""
    folder, inputs = trials.folder, Inputs()
    found = _sweep_at(folder, trials.recipe, trials.ledger.study)
    for trial in () if is_stored(folder) else found.trials:
        home = trial_folder(folder, trial.number)
        for place in (home, *home.glob("student/*/*")) if trial.state != "running" else ():
            remove_drafts(place)
    before = {entry["trial"]: entry for entry in (*found.best, *found.earlier)}
    best = [
        before.pop(trial.number, {}) or _best_entry(trials, trial, inputs) for trial in found.front
    ]
    found = replace(found, best=best, earlier=list(before.values()))
    write_trials(found)
    write_best(found)
    write_page(folder / PAGE, page(found))
    write_result(folder, _result(found, manifest))
    return found


def _best_entry(trials: Trials, trial: TrialRow, inputs: Inputs) -> dict[str, Any]:
    """What `best.json` says of a trial, with figures on the test split."""
    tasks = trials.tasks_of(trial.number, trial.settings)
    alone = Worker(rank=0, world=1, device=torch.device("cpu"), threads=torch.get_num_threads())
    tests, checkpoints = [], [result_model(task.folder) for task in tasks]
    for task, checkpoint in zip(tasks, checkpoints, strict=True):
        _, feeds = inputs.students(trials.transfer_set, task.data, alone.device)
        ensemble = ensemble_of(task.recipe.objective, feeds.members)
        model = load_model(checkpoint, alone.device).model
        tests.append(evaluate(model, feeds.test, alone, ensemble))
    return {
        "trial": trial.number,
        "settings": trial.settings,
        "validation": dict(trial.metrics),
        "test": averaged(tests),
        "tests": tests,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "checkpoints": [str(path.relative_to(trials.folder.parent)) for path in checkpoints],
        "weights_sha256": [
            result.fingerprint for task in tasks if (result := read_result(task.folder))
        ],
        "recipe": tasks[0].recipe_table(),
    }


def _result(found: Sweep, manifest: Manifest) -> Result:
    counts = {state: found.count(state) for state in STATES.values()}
    best = found.best[0]["test"] if found.best else {}
    return Result(
        stage="tune",
        kind=SWEEP_KIND,
        name=found.recipe.name,
        status="finished" if sum(counts.values()) >= found.options.trials else "unfinished",
        title="sweep",
        metrics={
            "trials": len(found.trials),
            **counts,
            **{f"best_{name}": value for name, value in best.items()},
        },
        seconds=round(sum(trial.seconds or 0 for trial in found.trials), 2),
        parents={"transfer_set": manifest.sha256},
        recipe=found.recipe.model_dump(mode="json", exclude_none=True),
        versions=versions(),
    )
