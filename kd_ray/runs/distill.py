"""The stage that distills a student from a transfer set."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kd_ray.config import Recipe
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.files import to_path
from kd_ray.own_code import fingerprints
from kd_ray.result import STUDENT, read_result
from kd_ray.runs.combine import COMBINE
from kd_ray.runs.fit import check_same, determining, sha256_of_files
from kd_ray.runs.imported import IMPORT
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import LABEL, labelled_parent, transfer_set_folder
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.teach import load_teachers, model_line
from kd_ray.runs.train import Setup, description, train
from kd_ray.runs.variants import ONLINE, recipe_variants, specialized
from kd_ray.training.checkpoint import WEIGHTS, ModelInput, epoch_folder, epochs_in, read_meta
from kd_ray.training.objectives import check_meaning
from kd_ray.training.student import distill, ensemble_of, new_student
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import Manifest, check_fit
from kd_ray.transfer_set.plan import canonical_json

OPTIMIZER_KEY = "train.optimizer"
OF_STEPS = {"batch_size", "precision", "compile", "hold_out"}
"""Keys of `[train]` in which students that are trained as one are alike."""
APART_FROM_NUMBERS: Any = {
    "baselines": True,
    "continues": True,
    "quantizer": {"weight_bits", "activation_bits"},
}
"""Keys of `[student]` in which they may differ."""


def quantizer_table(recipe: Recipe) -> dict[str, Any] | None:
    """`[student.quantizer]` as a plain table, or None of a float student."""
    quantizer = recipe.student.quantizer
    return None if quantizer is None else quantizer.model_dump(mode="json", exclude_none=True)


def _tasks(request: Request) -> list[Task]:
    """A student of each variant for each seed; with the tasks that label for it."""
    students = []
    if "distill" in request.commands:
        sources = (*LABEL.tasks(request), *IMPORT.tasks(request))
        variants = request.variants or recipe_variants(request.recipe)
        students += [(variant, sources) for variant in variants]
    for combine in COMBINE.tasks(request) if "specialize" in request.commands else []:
        students.append((specialized(request.recipe, str(combine.folder)), (combine,)))
    return [
        request.task(DISTILL, recipe=v.recipe, variant=v.name, seed=seed, sources=sources)
        for seed in request.recipe.train.seeds
        for v, sources in students
    ]


def _identity(task: Task) -> dict[str, Any]:
    recipe, student = task.recipe, task.recipe.student
    parts: dict[str, Any] = {
        "student.model": student.model.determining,
        "objective": {k: v for k, v in determining(recipe.objective).items() if v is not None},
        "train": determining(recipe.train, "seeds"),
        "seed": task.seed,
    }
    quantizer = quantizer_table(recipe)
    if quantizer is not None:  # a float student's identity is what it was before there was one
        parts["student.quantizer"] = quantizer
    if student.continues is not None:  # which one it is, the parents say
        parts["student.continues"] = True
    if student.views is not None or student.teacher_in_every_step:
        parts["views"] = student.views or ONLINE
    return parts


def _parents(task: Task) -> dict[str, str]:
    model, objective = task.recipe.student.model, task.recipe.objective
    parents = labelled_parent(task) | sha256_of_files(**model.sources)
    parents |= fingerprints([model.name, objective.name, (objective.options or {}).get("of")])
    if (start := _continued(task)) is not None:
        meta = read_meta(start)
        parents["checkpoint"] = meta.files[WEIGHTS]
        parents |= {name: meta.parents[name] for name in ("sweep", "trial") if name in meta.parents}
    return parents | task.parents


def _setup(task: Task, worker: Worker, inputs: Inputs) -> Setup:
    """One student, with the transfer set it learns from."""
    recipe = task.recipe
    folder = transfer_set_folder(recipe, task.run_folder)
    transfer_set, feeds = inputs.students(
        folder, task.data, worker.device, lambda manifest: _check_teachers(task, manifest)
    )
    plan = transfer_set.manifest.plan
    objective, labels = recipe.objective, feeds.train.labels
    check_meaning(objective.name, objective.options or {}, labels, len(plan.class_names))
    start = _start(task, plan.class_names)
    teachers = []
    if recipe.student.teacher_in_every_step:
        if plan.teachers[0].is_imported:
            raise ConfigError(
                f"{task.title}: runs the teacher in every step, but its transfer set is "
                f"{plan.teachers[0].origin}, and that teacher is not here; leave it out"
            )
        if recipe.teacher is None or (
            recipe.transfer_set.path is not None and recipe.teacher.path is None
        ):
            raise ConfigError(
                f"{task.title}: runs the teacher in every step, but beside transfer_set.path only "
                "teacher.path says where that is; name the run folder that has trained it"
            )
        saved = [saved for saved, _ in load_teachers(recipe, task.run_folder, worker.device)]
        check_fit(transfer_set.manifest, teacher_sha256s=[teacher.sha256 for teacher in saved])
        teachers = [teacher.model for teacher in saved]
    made = new_student(recipe.student, feeds, len(plan.class_names), task.seed)
    return Setup(
        model=made.network,
        about=description(
            task,
            made.table,
            ModelInput(shape=plan.image_shape, mean=tuple(plan.mean), std=tuple(plan.std)),
            list(plan.class_names),
            quantizer=quantizer_table(recipe),
            parents={"dataset": plan.dataset_fingerprint, **made.parents, **_parents(task)},
        ),
        options=recipe.train,
        events=lambda training: distill(
            training, recipe, task.seed, feeds, worker, teachers, task.fused
        ),
        test=feeds.test,
        holding=feeds.train.holding(worker.device, recipe.data.hold),
        ensemble=ensemble_of(recipe.objective, feeds.members),
        start=start,
    )


def _check_teachers(task: Task, manifest: Manifest) -> None:
    """Refuses a set that was labelled by other teachers than the run's, where it has its own."""
    recipe = task.recipe
    if recipe.transfer_set.path is None:
        hashes = [saved.sha256 for saved, _ in load_teachers(recipe, task.run_folder)] or None
        check_fit(manifest, teacher_sha256s=hashes, views=recipe.transfer_set.views)


def _needs(task: Task) -> None:
    for source in task.sources:
        if read_result(source.folder) is None:
            source.stage.needs(source)


def _continued(task: Task) -> Path | None:
    """The latest checkpoint in the folder that `student.continues` means for a task's seed."""
    if task.recipe.student.continues is None:
        return None
    folder = to_path(task.recipe.student.continues) / f"seed-{task.seed}"
    epochs = epochs_in(folder)
    return epoch_folder(folder, epochs[-1]) if epochs else None


def _start(task: Task, class_names: Sequence[str]) -> Path | None:
    """The checkpoint that a student goes on from, or None of one that begins anew.

    Raises:
        CheckpointError: there is none, it is of other classes or of no fewer epochs.
    """
    continues, path = task.recipe.student.continues, _continued(task)
    if continues is None:
        return None
    if path is None:
        raise CheckpointError(
            f"student.continues: {continues}/seed-{task.seed} must have a checkpoint to go on "
            "from, but has none; name a student's folder such as runs/mnist/student/distilled, "
            "and its seeds in train.seeds"
        )
    meta, train = read_meta(path), task.recipe.train
    there = {"classes": meta.class_names, OPTIMIZER_KEY: meta.identity.get(OPTIMIZER_KEY)}
    check_same(path, there, {"classes": list(class_names), OPTIMIZER_KEY: train.optimizer})
    if meta.epoch >= train.epochs:
        raise CheckpointError(
            f"student.continues: {path} has {meta.epoch} epochs behind it, so train.epochs must be "
            f"more, but is {train.epochs}; ask for more epochs"
        )
    return path


def _alike(task: Task) -> str | None:
    """See `Stage.alike`: students of one network, transfer set and batch size, of any bits."""
    recipe = task.recipe
    if recipe.student.teacher_in_every_step:
        return None
    return canonical_json(
        {
            "set": str(transfer_set_folder(recipe, task.run_folder)),
            "data": recipe.data.model_dump(mode="json"),
            "student": recipe.student.model_dump(mode="json", exclude=APART_FROM_NUMBERS),
            "train": recipe.train.model_dump(mode="json", include=OF_STEPS),
        }
    )


DISTILL = Stage(
    name="distill",
    kind=STUDENT,
    commands=("distill", "specialize"),
    training=lambda task: task.recipe.train,
    tasks=_tasks,
    title=lambda task: f"student {task.variant}, seed {task.seed}",
    folder=lambda task: task.run_folder / "student" / task.variant / f"seed-{task.seed}",
    identity=_identity,
    parents=_parents,
    needs=_needs,
    perform=partial(train, _setup),
    summary=model_line,
    alike=_alike,
)
