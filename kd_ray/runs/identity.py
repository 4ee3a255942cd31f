"""What determined an artefact: the part of the recipe that a run must share to use it."""

from typing import Any

from kd_ray.config import Recipe
from kd_ray.config.table import Table
from kd_ray.runs.task import Task
from kd_ray.runs.variants import ONLINE, variant_options, views_of

LATER = {"labelled": 1.0, "hold_out": 0.0}
"""Keys that are younger than the first artefacts, and the value at which those still fit."""


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys.

    >>> flattened({"train": {"lr": 0.1}}, "teacher.")
    {'teacher.train.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def identity(task: Task) -> dict[str, Any]:
    """The part of the recipe that determines an artefact: dotted key -> value."""
    recipe = Recipe.model_validate(task.recipe)
    data = _table(recipe.data, "root")
    if task.stage == "distill":
        objective, train = variant_options(recipe, task.variant)
        parts: dict[str, Any] = {
            "student.model": recipe.student.model.model_dump(mode="json"),
            "objective": objective.model_dump(mode="json", exclude_none=True),
            "train": _table(train, "seeds"),
            "seed": task.seed,
        }
        quantizer = quantizer_table(recipe)
        if quantizer is not None:  # a float student's identity is what it was before there was one
            parts["student.quantizer"] = quantizer
        if recipe.student.continues is not None:  # which one it is, the parents say
            parts["student.continues"] = True
        if views_of(task.variant) is not None or task.variant == ONLINE:
            parts["views"] = views_of(task.variant) or ONLINE
        return flattened(parts)
    if recipe.specialists is not None and task.stage in ("cluster", "specialize", "combine"):
        options = recipe.specialists.model_dump(mode="json")
        start = {name: options[name] for name in ("generalist", "count")}
        if task.stage == "cluster":
            chosen = {name: options[name] for name in ("classes_each", "temperature", "seed")}
            return flattened({"specialists": start | chosen})
        if task.stage == "combine":
            return flattened({"specialists": start | {"top_n": options["top_n"]}})
        trained = {"generalist": options["generalist"], "train": options["train"]}
        return flattened({"data": data, "specialists": trained, "member": task.member})
    assert recipe.teacher is not None
    if task.stage == "teach":
        teacher = {
            "model": recipe.teacher.model_of(task.member).model_dump(mode="json"),
            "train": recipe.teacher.train.model_dump(mode="json"),
        }
        return flattened({"data": data, "teacher": teacher, "member": task.member})
    options = recipe.transfer_set.model_dump(mode="json", exclude={"path"})
    members = recipe.teacher.members
    return flattened({"data": data, "transfer_set": options, "teacher.members": members})


def _table(table: Table, left_out: str) -> dict[str, Any]:
    """A table without a key that determines nothing, and without later keys that are not used."""
    values = table.model_dump(mode="json", exclude={left_out})
    return {key: value for key, value in values.items() if (key, value) not in LATER.items()}


def quantizer_table(recipe: Recipe) -> dict[str, Any] | None:
    """`[student.quantizer]` as a plain table, or None of a float student."""
    quantizer = recipe.student.quantizer
    return None if quantizer is None else quantizer.model_dump(mode="json", exclude_none=True)
