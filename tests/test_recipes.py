"""Every shipped recipe is read, checked, and dry-run on random pixels of its dataset's shape."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import ALONE, generator
from torch import Tensor

from kd_ray.config import Recipe, recipe_names, recipe_text
from kd_ray.datasets import DATASETS, Dataset, Split, check_augment
from kd_ray.pipeline import Run, open_recipe
from kd_ray.runs.variants import recipe_variants
from kd_ray.training.feed import TensorFeed
from kd_ray.training.optimizer import make_optimizer
from kd_ray.training.progress import Epoch, Training
from kd_ray.training.schedule import make_schedule
from kd_ray.training.student import StudentFeeds, distill, new_student
from kd_ray.training.teacher import new_teacher, teach
from tuning.driver import check_sweep

ROWS = 4
SHAPES = {  # (C, H, W), K and training rows, as the datasets' own pages have them
    "digits": ((1, 8, 8), 10, 1347),
    "mnist": ((1, 28, 28), 10, 60_000),
    "fashion-mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    "svhn": ((3, 32, 32), 10, 73_257),
    "spoken-digits": ((40, 1, 26), 50, 112_911),  # frames of the recordings that are no test rows
}

recipes = pytest.mark.parametrize("name", recipe_names())


def opened(name: str) -> Recipe:
    """A shipped recipe, uncompiled: whether a compiler is there is not the question here."""
    return open_recipe(name, ["train.compile=false"])


def shape_of(recipe: Recipe) -> tuple[tuple[int, int, int], int, int]:
    if recipe.data.name == "parquet":  # CIFAR-10's pictures, in files of one's own
        return SHAPES["cifar10"]
    if recipe.data.name == "imagefolder":
        side = recipe.data.image_size or 0
        return (3, side, side), 2, 100
    shape, classes, rows = SHAPES[recipe.data.name]
    return shape, len(recipe.data.classes or range(classes)), rows


def random_dataset(recipe: Recipe) -> Dataset:
    """A few random images of the shape of the recipe's dataset."""
    shape, classes, _ = shape_of(recipe)
    pixels = torch.randint(0, 256, (ROWS, *shape), generator=generator()).to(torch.uint8)
    labels = torch.arange(ROWS) % classes
    nothing = Split("validation", pixels[:0], labels[:0])
    names = tuple(str(number) for number in range(classes))
    return Dataset(
        recipe.data.name,
        names,
        train=Split("train", pixels, labels),
        validation=nothing,
        test=Split("test", pixels, labels),
    )


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_recipes_are_shipped_and_their_datasets_known():
    assert {"quickstart", "mnist", *(f"svhn-q{n}" for n in (1, 2, 3, 4))} <= set(recipe_names())
    assert set(DATASETS) == {*SHAPES, "imagefolder", "parquet", "csv", "packed"}


@recipes
def test_recipe_opens_with_the_command_that_runs_it(name: str):
    first = recipe_text(name)[1].splitlines()[0]
    recipe = opened(name)
    command = "(run |views )?"
    if name != "quickstart" and (recipe.sweep or recipe.specialists):  # a command of that name
        command = "tune run " if recipe.sweep else "specialize "
    assert re.fullmatch(rf"# kd-ray {command}{name}", first)


@recipes
def test_recipe_with_a_sweep_can_be_searched(name: str):
    if opened(name).sweep is not None:
        assert check_sweep(opened(name)).trials > 0


@recipes
def test_recipe_is_read_and_checked_and_is_named_like_its_file(name: str):
    recipe = opened(name)
    assert recipe.name == name
    shape, _, rows = shape_of(recipe)
    assert recipe.data.validation < rows
    augments = [recipe.transfer_set.augment]
    if recipe.teacher is not None:
        augments.append(recipe.teacher.train.augment)
    for augment in augments:
        check_augment(augment, torch.empty(0, *shape, dtype=torch.uint8))


@recipes
def test_recipe_has_tasks_for_every_stage_it_describes(name: str, tmp_path_factory):
    recipe = opened(name)
    run = Run(recipe, tmp_path_factory.mktemp("run"))
    stages = [task.stage.name for task in run.tasks()]
    variants = len(recipe.student.baselines) + 1 + (recipe.specialists is not None)
    assert stages.count("distill") == len(recipe.train.seeds) * variants
    if recipe.teacher is not None:
        assert stages.count("teach") == recipe.teacher.members
        assert stages.count("label") == 1
    specialists = 0 if recipe.specialists is None else recipe.specialists.count
    assert stages.count("specialize") == specialists
    assert stages.count("cluster") == stages.count("combine") == (specialists > 0)


@recipes
def test_recipe_schedules_run_from_the_first_step_to_the_last(name: str):
    recipe = opened(name)
    rows = int(shape_of(recipe)[2] * recipe.data.fraction) - recipe.data.validation
    owners = [owner for owner in (recipe.teacher, recipe.specialists) if owner is not None]
    for train in [recipe.train, *(owner.train for owner in owners)]:
        schedule = make_schedule(train.schedule.name, train.schedule.options)
        steps = math.ceil(rows / train.batch_size)
        places = {0, 1, steps * train.epochs // 2, steps * train.epochs - 1}
        knobs = [schedule(place, steps, steps * train.epochs) for place in sorted(places)]
        assert all(0 <= knob.lr_scale <= 1 for knob in knobs)
        assert max(knob.lr_scale for knob in knobs) > 0
        assert all(0 <= knob.momentum < 1 for knob in knobs if knob.momentum is not None)


@recipes
def test_recipe_takes_a_step_with_its_teacher(name: str):
    recipe = opened(name)
    if recipe.teacher is None:
        pytest.skip("its transfer set exists already")
    plain = recipe.teacher.train.model_copy(update={"compile": False})
    options = recipe.teacher.model_copy(update={"train": plain})
    dataset = random_dataset(recipe)
    model = new_teacher(options, dataset, member=0).network
    before = flat(model)
    training = Training(model, make_optimizer(model, options.train))
    events = teach(training, options, dataset, 0, ALONE)
    epoch = next(event for event in events if isinstance(event, Epoch))
    assert math.isfinite(epoch.metrics["train_loss"])
    assert not torch.equal(flat(model), before)


@recipes
def test_recipe_takes_a_step_with_every_variant_of_its_student(name: str):
    recipe = opened(name)
    dataset = random_dataset(recipe)
    classes = len(dataset.class_names)
    members = recipe.teacher.members if recipe.teacher else 1
    feed = TensorFeed(
        pixels=dataset.train.images,
        labels=dataset.train.labels,
        index=torch.arange(ROWS),
        mean=torch.tensor(dataset.mean),
        std=torch.tensor(dataset.std),
        logits=torch.randn(ROWS, 1, members, classes, generator=generator()),
    )
    views = recipe.transfer_set.views
    assert feed.logits is not None
    train = replace(
        feed,
        views=views,
        augment=recipe.transfer_set.augment,
        logits=feed.logits.expand(-1, views, -1, -1),
    )
    moved = []
    feeds = StudentFeeds(train, None, feed)
    for variant in recipe_variants(recipe):
        own = variant.recipe
        model = new_student(own.student, feeds, classes, seed=0).network
        before = flat(model)
        training = Training(model, make_optimizer(model, own.train))
        teachers = []
        if own.student.teacher_in_every_step and recipe.teacher is not None:
            teachers = [new_teacher(recipe.teacher, dataset, member=0).network.eval()]
        events = distill(training, own, 0, feeds, ALONE, teachers)
        epoch = next(event for event in events if isinstance(event, Epoch))
        assert math.isfinite(epoch.metrics["train_loss"])
        assert not torch.equal(flat(model), before)
        moved.append(flat(model))
    assert not any(torch.equal(one, other) for one, other in pairwise(moved))
