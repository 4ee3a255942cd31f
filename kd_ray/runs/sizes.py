"""What a recipe's transfer set will take, before the work: rows, bytes, seconds of labelling."""

import math
import time
from collections.abc import Iterator

import torch

from kd_ray.config import Recipe
from kd_ray.datasets import Dataset, open_dataset
from kd_ray.datasets.storage import nothing_downloaded
from kd_ray.errors import DataError
from kd_ray.models import placed
from kd_ray.runs.inputs import check_recipe
from kd_ray.runs.rows import rows_to_label
from kd_ray.training.feed import normalized
from kd_ray.training.saved_model import FORWARD_ROWS, one_thread
from kd_ray.training.teacher import new_teacher
from kd_ray.transfer_set.compact import FEWEST_CLASSES
from kd_ray.transfer_set.fit_basis import SHARES
from kd_ray.transfer_set.sizes import DTYPES, set_bytes
from kd_ray.units import bytes_shown

VIEWS = (1, 2, 4, 8, 16, 64)
MEASURED = 3
"""Times that a batch is labelled; the quickest counts."""


def size_lines(recipe: Recipe) -> Iterator[str]:
    """What is known here of a recipe's transfer set, line by line.

    Raises:
        ConfigError: the recipe asks for what its data cannot give.
    """
    options, teacher = recipe.transfer_set, recipe.teacher
    if options.path is not None:
        yield f"transfer set: the one at {options.path}"
        return
    try:
        with nothing_downloaded():
            dataset = open_dataset(recipe.data)
    except DataError as error:
        yield f"transfer set: not known here, as the data is not: {error}"
        return
    check_recipe(recipe, dataset)
    rows = rows_to_label(dataset, options)
    images, members = len(rows["train"].index), 1 if teacher is None else teacher.members
    others = sum(len(some.index) for some in rows.values()) - images
    classes = len(dataset.class_names)
    yield (
        f"transfer set: {images:,} training and {others:,} other images, {classes:,} classes, "
        f"{members} teacher{'s' * (members > 1)}"
    )
    pixels = math.prod(dataset.image_shape) if options.include_images else 0
    dtypes = [dtype for dtype in DTYPES if dtype not in SHARES or classes >= FEWEST_CLASSES]
    yield f"{'views':>7}{'rows':>14}" + "".join(f"{dtype:>15}" for dtype in dtypes)
    for views in sorted({*VIEWS, options.views}):
        count = images * views + others
        files = -(-images * views // options.shard_rows) + 2
        sizes = (set_bytes(dtype, count, classes, members, pixels, files) for dtype in dtypes)
        cells = "".join(f"{bytes_shown(size):>15}" for size in sizes)
        chosen = f"  <- transfer_set.views, {options.dtype}" if views == options.views else ""
        yield f"{views:>7}{count:>14,}{cells}{chosen}"
    if teacher is None:
        return
    models = [teacher.model_of(member) for member in range(members)] if not teacher.path else []
    if not models or any(model.is_fetched for model in models):
        yield "labelling: not measured, as a check neither fetches nor opens trained teachers"
        return
    rate = labelled_per_s(recipe, dataset)
    where = "its GPU" if torch.cuda.is_available() else "one CPU thread"
    seconds = (images * options.views + others) / rate
    yield f"labelling: {rate:,.0f} images/s on {where} here: {seconds:,.0f} s for one such worker"


def labelled_per_s(recipe: Recipe, dataset: Dataset) -> float:
    """Rows that one worker renders and runs through all teachers in a second, on this machine.

    The teachers are as they begin, since weights do not change what they cost.

    Raises:
        ConfigError: a teacher cannot be made of these images.
    """
    assert recipe.teacher is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    members = range(recipe.teacher.members)
    teachers = [new_teacher(recipe.teacher, dataset, member).network for member in members]
    teachers = [placed(teacher, device).eval() for teacher in teachers]
    mean, std = (torch.tensor(x, device=device) for x in (dataset.mean, dataset.std))
    rows = rows_to_label(dataset, recipe.transfer_set)["train"]
    some = torch.arange(min(len(rows.index) * rows.views, FORWARD_ROWS))
    times = []
    with one_thread(device), torch.inference_mode():
        for _ in range(MEASURED):
            start = time.perf_counter()
            images = normalized(rows.rendered(some).images.to(device), mean, std)
            for teacher in teachers:
                teacher(images).float().cpu()
            times.append(time.perf_counter() - start)
    return len(some) / min(times)
