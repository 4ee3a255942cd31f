import pytest
from tiny import tiny_recipe

from kd_ray.config import SoftWeight
from kd_ray.errors import ConfigError
from kd_ray.runs.variants import (
    EXERCISES,
    exercise_of,
    exercise_variants,
    is_asked_for,
    own_variant,
    recipe_variants,
    temperature_variants,
    variant_options,
    view_variants,
)

T2 = SoftWeight.parse("T^2")
NOTHING = SoftWeight.parse(0)


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("objective.temperature=4", "distilled"),
        ("objective.hard_weight=0", "distilled"),
        ("objective.targets='labels'", "softened-labels"),
        ("objective.soft_weight=0", "labels"),
    ],
)
def test_a_recipes_own_variant_is_named_after_what_its_student_learns_from(
    override: str, name: str
) -> None:
    recipe = tiny_recipe(override, "train.label_smoothing=0.05")
    assert own_variant(recipe) == name
    assert variant_options(recipe, name) == (recipe.objective, recipe.train)


def test_a_recipe_has_each_variant_once_and_its_own_one_last() -> None:
    all_three = "student.baselines=['labels', 'smoothing', 'softened-labels']"
    names = ["labels", "smoothing", "softened-labels", "distilled"]
    assert recipe_variants(tiny_recipe(all_three)) == names
    on_labels = tiny_recipe(all_three, "objective.soft_weight=0")
    assert recipe_variants(on_labels) == ["smoothing", "softened-labels", "labels"]


@pytest.mark.parametrize(
    ("variant", "hard", "soft", "targets", "temperature"),
    [
        ("q1", 1.0, NOTHING, "teacher", 3.0),
        ("q2-T8", 0.0, T2, "teacher", 8.0),
        ("q3-T2.5", 1.0, T2, "teacher", 2.5),
        ("q4-T20", 1.0, T2, "labels", 20.0),
    ],
)
def test_exercises_have_the_objectives_of_their_table_whatever_the_recipe_has(
    variant: str, hard: float, soft: SoftWeight, targets: str, temperature: float
) -> None:
    recipe = tiny_recipe(
        "objective.temperature=3", "objective.soft_weight=7", "objective.hard_weight=0.5"
    )
    objective, train = variant_options(recipe, variant)
    assert objective.hard_weight == hard
    assert objective.soft_weight == soft
    assert objective.targets == targets
    assert objective.temperature == temperature
    assert train == recipe.train


def test_exercise_names_and_temperatures_go_there_and_back() -> None:
    variants = exercise_variants([1, 2, 2.5, 1e-3, 1e6])
    assert len(set(variants)) == 1 + 3 * 5
    found = [exercise_of(variant) for variant in variants]
    assert found[0] == ("q1", None)
    assert {exercise for exercise, _ in filter(None, found)} == set(EXERCISES)
    assert [t for q, t in filter(None, found) if q == "q3"] == [1, 2, 2.5, 1e-3, 1e6]
    assert all(exercise_of(name) is None for name in ("labels", "q1-T4", "q5-T4", "q3", "q3-T"))


@pytest.mark.parametrize("temperatures", [[], [4, 4], [0], [-1], [float("inf")], [float("nan")]])
def test_exercises_refuse_temperatures_that_are_none(temperatures: list[float]) -> None:
    with pytest.raises(ConfigError, match="temperatures: must be"):
        exercise_variants(temperatures)


def test_a_students_temperature_is_all_that_its_variant_changes() -> None:
    recipe = tiny_recipe("objective.temperature=20", "objective.hard_weight=0.1")
    assert temperature_variants(recipe, [1, 2.5, 20]) == ["T1", "T2.5", "distilled"]
    objective, train = variant_options(recipe, "T2.5")
    assert objective == recipe.objective.model_copy(update={"temperature": 2.5})
    assert train == recipe.train


@pytest.mark.parametrize("variant", [*view_variants([1, 4]), "online"])
def test_students_of_other_views_have_the_recipes_own_objective(variant: str) -> None:
    recipe = tiny_recipe("objective.temperature=3", "train.label_smoothing=0.05")
    assert variant_options(recipe, variant) == (recipe.objective, recipe.train)


def test_variants_that_a_command_asked_for_are_told_from_those_of_recipes() -> None:
    assert all(is_asked_for(name) for name in ("q1", "q3-T4", "T2.5", "views-16"))
    assert not any(is_asked_for(n) for n in ("labels", "smoothing", "online", "distilled"))


@pytest.mark.parametrize("numbers", [[], [0], [2, 2]])
def test_numbers_of_views_that_make_no_sense_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ConfigError, match="views: must be at least one number from 1 on"):
        view_variants(numbers)
