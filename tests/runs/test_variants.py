import pytest
from tiny import tiny_recipe

from kd_ray.config import SoftWeight
from kd_ray.errors import ConfigError
from kd_ray.runs.variants import (
    OF_RECIPES,
    ONLINE,
    SPECIALIZED,
    own_variant,
    recipe_variants,
    specialized,
    variant,
)
from kd_ray.studies.exercises import EXERCISES, exercise_students
from kd_ray.studies.views import view_students

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
    assert variant(recipe, name).recipe == recipe


def test_a_recipe_has_each_variant_once_and_its_own_one_last() -> None:
    def names(*overrides: str) -> list[str]:
        return [student.name for student in recipe_variants(tiny_recipe(*overrides))]

    all_three = "student.baselines=['labels', 'smoothing', 'softened-labels']"
    assert names(all_three) == ["labels", "smoothing", "softened-labels", "distilled"]
    on_labels = names(all_three, "objective.soft_weight=0")
    assert on_labels == ["smoothing", "softened-labels", "labels"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("labels", {"objective": {"hard_weight": 1.0, "soft_weight": NOTHING}}),
        (
            "smoothing",
            {
                "objective": {"hard_weight": 1.0, "soft_weight": NOTHING},
                "train": {"label_smoothing": 0.1},
            },
        ),
        ("softened-labels", {"objective": {"hard_weight": 1.0, "targets": "labels"}}),
        ("online", {"student": {"teacher_in_every_step": True}}),
        ("distilled", {}),
    ],
)
def test_a_baseline_changes_what_it_is_named_after_and_nothing_else(
    name: str, changes: dict[str, dict[str, object]]
) -> None:
    recipe = tiny_recipe("objective.temperature=3", "objective.hard_weight=0.5")
    changed = variant(recipe, name).recipe
    for table in type(recipe).model_fields:
        ours, theirs = getattr(changed, table), getattr(recipe, table)
        if table in changes:
            theirs = theirs.model_copy(update=changes[table])
        assert ours == theirs, table


def test_the_student_of_specialists_learns_from_their_one_joint_teacher() -> None:
    recipe = tiny_recipe(
        "teacher.members=2", "objective.members=[1]", "objective.member_weights=[0.5]"
    )
    changed = specialized(recipe, "joint").recipe
    assert changed.transfer_set.path == "joint"
    assert changed.objective.members is None
    assert changed.objective.member_weights is None
    assert changed.objective.temperature == recipe.objective.temperature
    assert changed.train == recipe.train


@pytest.mark.parametrize(
    ("name", "hard", "soft", "targets", "temperature"),
    [
        ("q1", 1.0, NOTHING, "teacher", 3.0),
        ("q2-T8", 0.0, T2, "teacher", 8.0),
        ("q3-T2.5", 1.0, T2, "teacher", 2.5),
        ("q4-T20", 1.0, T2, "labels", 20.0),
    ],
)
def test_exercises_have_the_objectives_of_their_table_whatever_the_recipe_has(
    name: str, hard: float, soft: SoftWeight, targets: str, temperature: float
) -> None:
    recipe = tiny_recipe(
        "objective.temperature=3",
        "objective.soft_weight=7",
        "objective.hard_weight=0.5",
        "objective.soft_decay=0.5",
    )
    students = {s.name: s for s in exercise_students(recipe, [8, 2.5, 20]).values()}
    changed = students[name].recipe
    objective = changed.objective
    assert objective.hard_weight == hard
    assert objective.soft_weight == soft
    assert objective.targets == targets
    assert objective.temperature == temperature
    assert changed.model_copy(update={"objective": recipe.objective}) == recipe


def test_exercises_are_one_student_on_labels_and_three_at_every_temperature() -> None:
    temperatures = [1, 2, 2.5, 1e-3, 1e6]
    students = exercise_students(tiny_recipe(), temperatures)
    assert len({student.name for student in students.values()}) == 1 + 3 * 5
    assert next(iter(students)) == ("q1", None)
    assert {exercise for exercise, _ in students} == set(EXERCISES)
    for exercise in ("q2", "q3", "q4"):
        assert [t for name, t in students if name == exercise] == temperatures
        mine = [students[exercise, t].recipe for t in temperatures]
        assert [recipe.objective.temperature for recipe in mine] == temperatures


@pytest.mark.parametrize("temperatures", [[], [4, 4], [0], [-1], [float("inf")], [float("nan")]])
def test_exercises_refuse_temperatures_that_are_none(temperatures: list[float]) -> None:
    with pytest.raises(ConfigError, match="temperatures: must be"):
        exercise_students(tiny_recipe(), temperatures)


def test_students_of_other_views_have_the_recipes_own_objective() -> None:
    recipe = tiny_recipe("objective.temperature=3", "train.label_smoothing=0.05")
    students = view_students(recipe, [1, 4])
    assert [student.name for student in students.values()] == ["views-1", "views-4", ONLINE]
    for views, student in students.items():
        assert student.recipe.student.views == views
        assert student.recipe.student.teacher_in_every_step == (views is None)
        assert student.recipe.model_copy(update={"student": recipe.student}) == recipe


def test_variants_of_studies_are_not_named_like_those_of_recipes() -> None:
    recipe = tiny_recipe("student.baselines=['labels', 'smoothing', 'softened-labels', 'online']")
    of_recipe = {student.name for student in recipe_variants(recipe)} | {SPECIALIZED}
    assert of_recipe == OF_RECIPES
    names = {student.name for student in exercise_students(recipe, [4]).values()}
    names |= {s.name for views, s in view_students(recipe, [16]).items() if views is not None}
    assert not names & OF_RECIPES


@pytest.mark.parametrize("numbers", [[], [0], [2, 2]])
def test_numbers_of_views_that_make_no_sense_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ConfigError, match="views: must be at least one number from 1 on"):
        view_students(tiny_recipe(), numbers)
