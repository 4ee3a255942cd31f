"""Variants of a student: recipes derived from a run's, with the name under which each is trained.

All of them see the same rows with the same budget; a figure is compared with those of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_ray.config import Recipe, SoftWeight

DISTILLED, LABELS, SOFTENED_LABELS = "distilled", "labels", "softened-labels"
SMOOTHING, ONLINE, SPECIALIZED = "smoothing", "online", "specialized"
OF_RECIPES = {DISTILLED, LABELS, SOFTENED_LABELS, SMOOTHING, ONLINE, SPECIALIZED}
"""Names of the students that recipes have by themselves."""

NO_SOFT_TERM = SoftWeight(factor=0.0, times_temperature_squared=False)


@dataclass(frozen=True)
class Variant:
    """A student of a run: the name of its folder, and the run's recipe with what it changes."""

    name: str
    recipe: Recipe


def derived(recipe: Recipe, **tables: Mapping[str, Any]) -> Recipe:
    """The same recipe with some keys of its tables changed: table -> key -> value."""
    changed = {
        name: getattr(recipe, name).model_copy(update=dict(keys)) for name, keys in tables.items()
    }
    return recipe.model_copy(update=changed)


def own_variant(recipe: Recipe) -> str:
    """The name of the recipe's own student; one on labels alone is not called distilled."""
    objective = recipe.objective
    if objective.soft_weight.factor == 0:
        return LABELS
    return DISTILLED if objective.targets == "teacher" else SOFTENED_LABELS


def variant(recipe: Recipe, name: str) -> Variant:
    """The recipe's own student, or one of the baselines beside it."""
    hinton = {"name": "hinton", "options": None, "soft_warmup": 0.0}
    hard_only = {**hinton, "hard_weight": 1.0, "soft_weight": NO_SOFT_TERM}
    changes: dict[str, dict[str, dict[str, Any]]] = {
        LABELS: {"objective": hard_only},
        SMOOTHING: {"objective": hard_only, "train": {"label_smoothing": 0.1}},
        SOFTENED_LABELS: {"objective": {**hinton, "hard_weight": 1.0, "targets": "labels"}},
        ONLINE: {"student": {"teacher_in_every_step": True}},
        own_variant(recipe): {},
    }
    return Variant(name, derived(recipe, **changes[name]))


def recipe_variants(recipe: Recipe) -> list[Variant]:
    """The baselines of a recipe, then its own student."""
    own = own_variant(recipe)
    names = [*(name for name in recipe.student.baselines if name != own), own]
    return [variant(recipe, name) for name in names]


def specialized(recipe: Recipe, transfer_set: str) -> Variant:
    """The student of generalist and specialists, whose transfer set has them as one teacher."""
    changed = derived(
        recipe,
        transfer_set={"path": transfer_set},
        objective={"members": None, "member_weights": None},
    )
    return Variant(SPECIALIZED, changed)
