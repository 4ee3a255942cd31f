"""Teachers learn from the training rows whose labels are known, and from no others."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny import ALONE, perform, tasks, tiny_recipe
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Training
from kd_ray.training.teacher import new_teacher, teach
from kd_ray.transfer_set import open_transfer_set

HALF = tiny_recipe(
    *("data.labelled=0.5", "data.standardize=false", "teacher.train.augment={shift=1}"),
    "teacher.model={ name = 'convnet', groups = [[4]] }",  # its batch norm would see every image
)


def taught(recipe: Recipe, dataset: Dataset) -> list[Tensor]:
    """The weights of a teacher of a dataset."""
    assert recipe.teacher is not None
    model = new_teacher(recipe.teacher, dataset, 0).network
    training = Training(model, make_optimizer(model, recipe.teacher.train))
    for _ in teach(training, recipe.teacher, dataset, 0, ALONE):
        pass
    return list(model.parameters())


def test_a_teacher_does_not_look_at_rows_without_a_label() -> None:
    dataset = open_dataset(HALF.data)
    hidden = dataset.train.labels == UNLABELLED
    assert bool(hidden.any())
    black = dataset.train.images.masked_fill(hidden[:, None, None, None], 0)
    other = replace(dataset, train=replace(dataset.train, images=black))
    for one, same in zip(taught(HALF, dataset), taught(HALF, other), strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=0)


def test_rows_without_a_label_are_in_the_set_without_one(tmp_path: Path) -> None:
    todo = tasks(HALF, tmp_path)
    perform(todo)
    label = next(task for task in todo if task.stage.name == "label")
    rows = open_transfer_set(label.folder).train
    dataset = open_dataset(HALF.data)
    assert torch.equal(rows.labels, dataset.train.labels)
