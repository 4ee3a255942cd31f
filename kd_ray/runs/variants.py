"""Variants of a student: the recipe's own objective, and those that a figure is compared with.

All of them see the same rows and views with the same budget. The four exercises take the
objective of Hinton et al. 2015, section 2, apart: labels, soft targets, both, and a control. Some
variants differ in T alone, or in how many views of an image they are shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kd_ray.config import Objective, Recipe, SoftWeight, StudentTrain
from kd_ray.errors import ConfigError

DISTILLED, LABELS, SOFTENED_LABELS = "distilled", "labels", "softened-labels"
ONLINE = "online"
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
    _check_temperatures(temperatures)
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


def temperature_variants(recipe: Recipe, temperatures: Sequence[float]) -> list[str]:
    """The recipe's own student at each temperature, the recipe's own T among them by its name.

    Raises:
        ConfigError: no temperature, one twice, or one that is not above 0.
    """
    _check_temperatures(temperatures)
    own, at = own_variant(recipe), recipe.objective.temperature
    return [own if t == at else f"T{t:g}" for t in temperatures]


def temperature_of(variant: str) -> float | None:
    """The temperature that takes the place of the recipe's, or None of another variant.

    >>> temperature_of("T2.5"), temperature_of("distilled")
    (2.5, None)
    """
    match = re.fullmatch(r"T([0-9.e+-]+)", variant)
    return None if match is None else float(match[1])


def view_variants(numbers: Sequence[int]) -> list[str]:
    """Students of the first so many stored views, and one with the teacher run in every step.

    >>> view_variants([1, 4])
    ['views-1', 'views-4', 'online']

    Raises:
        ConfigError: no number, one twice, or one below 1.
    """
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise ConfigError(
            f"views: must be at least one number from 1 on, each once, but got {list(numbers)}"
        )
    return [*(f"views-{number}" for number in numbers), ONLINE]


def views_of(variant: str) -> int | None:
    """How many of the stored views a variant is shown, or None of one that is shown all.

    >>> views_of("views-4"), views_of("online")
    (4, None)
    """
    match = re.fullmatch(r"views-([0-9]+)", variant)
    return None if match is None else int(match[1])


def is_asked_for(variant: str) -> bool:
    """Whether a command asked for a variant that no recipe has by itself."""
    asked = (exercise_of(variant), temperature_of(variant), views_of(variant))
    return any(found is not None for found in asked)


def variant_options(recipe: Recipe, variant: str) -> tuple[Objective, StudentTrain]:
    """The objective and training options of a variant of a recipe's student."""
    objective, train = recipe.objective, recipe.train
    temperature = temperature_of(variant)
    if temperature is not None:
        return objective.model_copy(update={"temperature": temperature}), train
    if variant == SPECIALIZED:  # its transfer set has one teacher, all of them together
        return objective.model_copy(update={"members": None, "member_weights": None}), train
    if variant in (own_variant(recipe), ONLINE) or views_of(variant) is not None:
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


def _check_temperatures(temperatures: Sequence[float]) -> None:
    if not temperatures or len(set(temperatures)) < len(temperatures):
        raise ConfigError(
            f"temperatures: must be at least one, each once, but got {list(temperatures)}"
        )
    if not all(0 < temperature < float("inf") for temperature in temperatures):
        raise ConfigError(f"temperatures: must be above 0, but got {list(temperatures)}")


def _exercise(name: str, temperature: float | None) -> dict[str, Any]:
    return {
        "hard_weight": 0.0 if name == "q2" else 1.0,
        "soft_weight": T_SQUARED,
        "soft_decay": 0.0,
        "targets": "labels" if name == "q4" else "teacher",
        "temperature": temperature,
    }
