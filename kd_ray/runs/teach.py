"""The stage that trains a teacher: one member of the ensemble."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from kd_ray.config import Recipe, TeacherOptions
from kd_ray.config.data import WHERE
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.own_code import fingerprints
from kd_ray.result import TEACHER, Result, read_result
from kd_ray.runs.fit import determining, result_model, sha256_of_files
from kd_ray.runs.inputs import Inputs, check_recipe
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.train import Setup, description, train
from kd_ray.training.checkpoint import ModelInput
from kd_ray.training.feed import feed_of
from kd_ray.training.saved_model import SavedModel, load_model
from kd_ray.training.teacher import new_teacher, teach
from kd_ray.training.workers import Worker


def teacher_folder(run: Path, member: int) -> Path:
    """The folder of a member of the ensemble below a run folder."""
    return run / "teacher" / f"member-{member:02d}"


def teacher_folders(recipe: Recipe, run: Path) -> list[Path]:
    """The folders of a run's teachers, in order: below the run, or in `teacher.path`."""
    if recipe.teacher is None:
        return []
    home = run if recipe.teacher.path is None else to_path(recipe.teacher.path)
    return [teacher_folder(home, member) for member in range(recipe.teacher.members)]


def load_teachers(
    recipe: Recipe, run: Path, device: torch.device | None = None
) -> list[tuple[SavedModel, Result]]:
    """Every member of a run's ensemble with its result, in order, on the CPU or `device`.

    Raises:
        CheckpointError: a member has not finished.
    """
    members = []
    for folder in teacher_folders(recipe, run):
        saved = load_model(result_model(folder), device or torch.device("cpu"))
        result = read_result(folder)
        assert result is not None  # it named the model
        members.append((saved, result))
    return members


def model_line(result: Result) -> str:
    """The clause of a finished model: how good it is."""
    errors = int(result.metrics["errors"])
    wrong = "1 error" if errors == 1 else f"{errors:,} errors"
    return f"test accuracy {result.metrics['accuracy']:.4f}, {wrong}"


def _tasks(request: Request) -> list[Task]:
    members = request.recipe.teacher.members if request.recipe.teacher else 0
    numbers = range(members if request.labels_here else 0)
    return [request.task(TEACH, member=member) for member in numbers]


def _options(task: Task) -> TeacherOptions:
    assert task.recipe.teacher is not None  # else there is no such task
    return task.recipe.teacher


def _identity(task: Task) -> dict[str, Any]:
    teacher = _options(task)
    columns = {} if teacher.columns is None else {"columns": teacher.columns}
    if isinstance(teacher.columns, str):  # what is in it, the parents say
        columns = {"columns": "file"}
    return {
        "data": determining(task.recipe.data, *WHERE),
        "teacher": {
            "model": teacher.model_of(task.member).determining,
            "train": teacher.train.model_dump(mode="json"),
            **columns,
        },
        "member": task.member,
    }


def _parents(task: Task) -> dict[str, str]:
    teacher = _options(task)
    names = [teacher.columns] if isinstance(teacher.columns, str) else []
    model = teacher.model_of(task.member)
    files = sha256_of_files(**model.sources, columns=names)
    return files | fingerprints([model.name])


def _needs(task: Task) -> None:
    given = task.recipe.teacher.path if task.recipe.teacher else None
    if given is not None:
        raise ConfigError(
            f"teacher.path: {given} must have all of the teachers, but {task.title} has not "
            "finished there; train them there first, or leave path out"
        )


def _setup(task: Task, worker: Worker, inputs: Inputs) -> Setup:
    """One member of the ensemble, with the dataset it learns from."""
    teacher = _options(task)
    dataset = inputs.dataset(task.data)
    check_recipe(task.recipe, dataset)
    made = new_teacher(teacher, dataset, task.member)
    train_rows, test_rows = (
        feed_of(split, dataset.mean, dataset.std) for split in (dataset.train, dataset.test)
    )
    return Setup(
        model=made.network,
        about=description(
            task,
            made.table,
            ModelInput(shape=dataset.image_shape, mean=dataset.mean, std=dataset.std),
            list(dataset.class_names),
            parents={"dataset": dataset.fingerprint, **made.parents, **_parents(task)},
        ),
        options=teacher.train,
        events=lambda training: teach(training, teacher, dataset, task.member, worker),
        test=test_rows.held(worker.device, dataset.hold),
        holding=train_rows.holding(worker.device, dataset.hold),
    )


TEACH = Stage(
    name="teach",
    kind=TEACHER,
    commands=("teach",),
    training=lambda task: _options(task).train,
    tasks=_tasks,
    title=lambda task: f"teacher {task.member}",
    folder=lambda task: teacher_folders(task.recipe, task.run_folder)[task.member],
    identity=_identity,
    parents=_parents,
    needs=_needs,
    perform=partial(train, _setup),
    summary=model_line,
)
