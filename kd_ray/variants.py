"""Variants of a student: the recipe's own objective, and those that a figure is compared with.

All of them see the same rows and views with the same budget. The four exercises take the
objective of Hinton et al. 2015, section 2, apart: labels, soft targets, both, and a control.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.config import Objective, Recipe, SoftWeight, StudentTrain
from kd_ray.errors import ConfigError

DISTILLED, LABELS, SOFTENED_LABELS = "distilled", "labels", "softened-labels"
SPECIALIZED = "specialized"
"""The recipe's own objective, with generalist and specialists together for a teacher."""
NO_SOFT_TERM = SoftWeight(factor=0.0, times_temperature_squared=False)
T_SQUARED = SoftWeight(factor=1.0, times_temperature_squared=True)

EXERCISES: Mapping[str, str] = {
    "q1": "labels only",
    "q2": "soft targets only",
    "q3": "labels and soft targets",
    "q4": "labels, softened at T",
}
"""Exercise -> what its student learns from."""


def own_variant(recipe: Recipe) -> str:
    """What the recipe's own objective is, so that a student on labels is not called distilled."""
    objective = recipe.objective
    if objective.soft_weight.factor == 0:
        return LABELS
    return DISTILLED if objective.targets == "teacher" else SOFTENED_LABELS


def recipe_variants(recipe: Recipe) -> list[str]:
    """The baselines of a recipe, then its own objective."""
    own = own_variant(recipe)
    return [*(name for name in recipe.student.baselines if name != own), own]


def exercise_variants(temperatures: Sequence[float]) -> list[str]:
    """The four exercises, all but the first at every temperature.

    >>> exercise_variants([1, 2.5])
    ['q1', 'q2-T1', 'q3-T1', 'q4-T1', 'q2-T2.5', 'q3-T2.5', 'q4-T2.5']

    Raises:
        ConfigError: no temperature, one twice, or one that is not above 0.
    """
    if not temperatures or len(set(temperatures)) < len(temperatures):
        raise ConfigError(
            f"temperatures: must be at least one, each once, but got {list(temperatures)}"
        )
    if not all(0 < temperature < float("inf") for temperature in temperatures):
        raise ConfigError(f"temperatures: must be above 0, but got {list(temperatures)}")
    return ["q1", *(f"{q}-T{t:g}" for t in temperatures for q in ("q2", "q3", "q4"))]


def exercise_of(variant: str) -> tuple[str, float | None] | None:
    """The exercise and the temperature of a variant, or None of one that is no exercise.

    >>> exercise_of("q3-T4"), exercise_of("q1"), exercise_of("labels")
    (('q3', 4.0), ('q1', None), None)
    """
    match = re.fullmatch(r"(q1)|(q[234])-T([0-9.e+-]+)", variant)
    if match is None:
        return None
    return ("q1", None) if match[1] else (match[2], float(match[3]))


def variant_options(recipe: Recipe, variant: str) -> tuple[Objective, StudentTrain]:
    """The objective and training options of a variant of a recipe's student."""
    objective, train = recipe.objective, recipe.train
    if variant in (own_variant(recipe), SPECIALIZED):
        return objective, train
    hard_only = {"hard_weight": 1.0, "soft_weight": NO_SOFT_TERM}
    exercise = exercise_of(variant)
    if exercise is not None:
        changed = _exercise(*exercise) if exercise[1] is not None else hard_only
        return objective.model_copy(update=changed), train
    variants: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        LABELS: (hard_only, {}),
        "smoothing": (hard_only, {"label_smoothing": 0.1}),
        SOFTENED_LABELS: ({"hard_weight": 1.0, "targets": "labels"}, {}),
    }
    changed, trained = variants[variant]
    return objective.model_copy(update=changed), train.model_copy(update=trained)


def _exercise(name: str, temperature: float | None) -> dict[str, Any]:
    return {
        "hard_weight": 0.0 if name == "q2" else 1.0,
        "soft_weight": T_SQUARED,
        "soft_decay": 0.0,
        "targets": "labels" if name == "q4" else "teacher",
        "temperature": temperature,
    }
