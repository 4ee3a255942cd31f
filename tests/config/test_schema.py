from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kd_ray.config import (
    Augment,
    DataOptions,
    Objective,
    Recipe,
    Resources,
    SoftWeight,
    StudentTrain,
    TeacherOptions,
    TeacherTrain,
    Train,
    TransferSetOptions,
)
from kd_ray.config.schema import StudentOptions

weights = st.floats(0, 1e6, allow_nan=False)


@given(factor=weights, squared=st.booleans(), temperature=st.floats(0.1, 100))
def test_soft_weight_is_a_number_or_a_multiple_of_the_squared_temperature(
    factor: float, squared: bool, temperature: float
):
    weight = SoftWeight(factor=factor, times_temperature_squared=squared)
    scale = temperature**2 if squared else 1.0
    assert weight.value(temperature) == factor * scale


@given(factor=weights, squared=st.booleans())
def test_soft_weight_reads_back_what_it_writes(factor: float, squared: bool):
    weight = SoftWeight(factor=factor, times_temperature_squared=squared)
    assert SoftWeight.parse(weight.written()) == weight
    assert SoftWeight.parse(weight) == weight


@pytest.mark.parametrize(
    ("text", "factor", "squared"),
    [
        (0, 0.0, False),
        (2.5, 2.5, False),
        ("3", 3.0, False),
        ("T^2", 1.0, True),
        (" T^2 ", 1.0, True),
        ("0.5*T^2", 0.5, True),
        ("1e-3 * T^2", 1e-3, True),
        ("0*T^2", 0.0, True),
    ],
)
def test_soft_weight_has_these_forms(text: Any, factor: float, squared: bool):
    assert SoftWeight.parse(text) == SoftWeight(factor=factor, times_temperature_squared=squared)


@pytest.mark.parametrize(
    "text",
    ["", "T", "T^3", "t^2", "T^2*2", "--1*T^2", "many", -1, "-0.5*T^2", float("nan"), "nan",
     float("inf"), "inf", "1e999", True, None, [1], {"factor": 1}],
)  # fmt: skip
def test_soft_weight_of_anything_else_is_refused_with_the_rule(text: Any):
    with pytest.raises(ValueError, match="must be a number >= 0") as caught:
        SoftWeight.parse(text)
    rule = 'must be a number >= 0 and <= 1e12, "T^2" or a multiple such as "0.5*T^2"'
    assert str(caught.value) == f"{rule}, but got {text!r}"


def test_soft_weight_of_an_objective_is_unscaled_only_where_the_recipe_says_so():
    assert Objective().soft_weight.value(4.0) == 16.0
    assert Objective.model_validate({"soft_weight": 2}).soft_weight.value(4.0) == 2.0


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Objective, {"temperature": 0}),
        (Objective, {"temperature": -1.0}),
        (Objective, {"temperature": float("nan")}),
        (Objective, {"temperature": float("inf")}),
        (Objective, {"temperature": "4"}),
        (Objective, {"hard_weight": -0.1}),
        (Objective, {"soft_weight": -0.1}),
        (Objective, {"hard_weight": 0, "soft_weight": 0}),
        (Objective, {"hard_weight": 0, "soft_weight": "0*T^2"}),
        (Objective, {"targets": "student"}),
        (Objective, {"ensemble": "median"}),
        (Objective, {"soft_decay": 1.1}),
        (Train, {"epochs": 0}),
        (Train, {"epochs": 1.5}),
        (Train, {"epochs": True}),
        (Train, {"epochs": "3"}),
        (Train, {"batch_size": 0}),
        (Train, {"lr": 0.0}),
        (Train, {"lr": float("inf")}),
        (Train, {"momentum": 1.0}),
        (Train, {"optimizer": "sgd", "momentum": 0.0}),
        (Train, {"optimizer": "lion"}),
        (Train, {"grad_clip": 0.0}),
        (Train, {"label_smoothing": 1.0}),
        (Train, {"precision": "fp16"}),
        (Train, {"patience": 0}),
        (Train, {"compile": 1}),
        (StudentTrain, {"seeds": []}),
        (StudentTrain, {"seeds": [1, 1]}),
        (StudentTrain, {"seeds": [-1]}),
        (StudentOptions, {"model": "mlp", "baselines": ["labels", "labels"]}),
        (StudentOptions, {"model": "mlp", "baselines": ["nothing"]}),
        (StudentOptions, {"model": 3}),
        (StudentOptions, {"model": {"hidden": [3]}}),
        (StudentOptions, {}),
        (TeacherOptions, {"model": "mlp", "members": 0}),
        (TeacherTrain, {"augment": {"shift": -1}}),
        (TeacherTrain, {"seeds": [0]}),
        (Augment, {"rotate": 181.0}),
        (Augment, {"resized_crop": [0.35]}),
        (Augment, {"resized_crop": [0.0, 1.0]}),
        (Augment, {"resized_crop": [1.0, 0.35]}),
        (Augment, {"color": 1.5}),
        (Augment, {"flip": "yes"}),
        (DataOptions, {"name": "digits", "fraction": 0.0}),
        (DataOptions, {"name": "digits", "fraction": 1.1}),
        (DataOptions, {"name": "digits", "labelled": 0.0}),
        (DataOptions, {"name": "digits", "validation": -1}),
        (DataOptions, {"name": "digits", "classes": ["1"]}),
        (DataOptions, {"name": "digits", "classes": ["1", "1"]}),
        (DataOptions, {"name": "digits", "image_size": 32}),
        (DataOptions, {"name": "imagefolder", "columns": {"image": "img"}}),
        (DataOptions, {"name": "csv", "columns": {"picture": "img"}}),
        (DataOptions, {"name": "csv", "options": {}}),
        (DataOptions, {"name": "my_data:load", "root": "pictures"}),
        (TransferSetOptions, {"dtype": "float64"}),
        (TransferSetOptions, {"views": 0}),
        (TransferSetOptions, {"views": 2}),
        (TransferSetOptions, {"augment": {"shift": 1}}),
        (TransferSetOptions, {"unlabelled": 1.5}),
        (TransferSetOptions, {"shard_rows": 0}),
        (Resources, {"workers": 0}),
        (Resources, {"cpus_per_worker": 0}),
        (Resources, {"gpus_per_worker": 2}),
        (Resources, {"gpus_per_worker": "all"}),
    ],
)  # fmt: skip
def test_a_table_refuses_a_value_that_breaks_a_rule(table: Any, values: dict[str, Any]):
    with pytest.raises(ValidationError):
        table.model_validate(values)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Objective, {"hard_weight": 0}),
        (Objective, {"soft_weight": 0}),
        (Objective, {"temperature": 20}),
        (Train, {"lr": 1}),
        (Train, {"optimizer": "sgd", "momentum": 0.0, "nesterov": False}),
        (Train, {"optimizer": "adam", "momentum": 0.0}),
        (TransferSetOptions, {"views": 2, "augment": {"shift": 1}}),
        (TransferSetOptions, {"unlabelled": 1.0}),
        (Resources, {"gpus_per_worker": 0, "cpus_per_worker": "auto"}),
        (DataOptions, {"name": "imagefolder", "image_size": 32}),
        (DataOptions, {"name": "imagefolder"}),
        (DataOptions, {"name": "parquet", "image_size": 4}),
        (DataOptions, {"name": "my_data:load", "image_size": 4, "options": {"a": [1]}}),
    ],
)
def test_a_table_takes_a_value_at_the_edge_of_a_rule(table: Any, values: dict[str, Any]):
    read = table.model_validate(values)
    for key, value in values.items():
        if key not in ("soft_weight", "augment"):
            assert getattr(read, key) == value


@pytest.mark.parametrize("train", [{"keep": "best"}, {"patience": 3}])
@pytest.mark.parametrize("place", ["train", "teacher"])
def test_a_recipe_chooses_among_epochs_only_with_validation_rows(train: dict[str, Any], place: str):
    table: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "digits"},
        "teacher": {"model": "mlp", "train": train if place == "teacher" else {}},
        "student": {"model": "mlp"},
        "train": train if place == "train" else {},
    }
    where = "teacher.train" if place == "teacher" else "train"
    with pytest.raises(ValidationError, match=rf'{where}: keep = "best" and patience choose by'):
        Recipe.model_validate(table)
    table["data"]["validation"] = 10
    assert Recipe.model_validate(table).data.validation == 10


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"student": {"model": "mlp", "teacher_in_every_step": True}}, "teacher_in_every_step"),
        ({"student": {"model": "mlp", "baselines": ["online"]}}, 'student.baselines: "online"'),
        ({"specialists": {"count": 2}}, "specialists"),
    ],
)
def test_a_recipe_without_a_teacher_has_nothing_that_runs_one(changes: dict[str, Any], place: str):
    table: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "digits"},
        "student": {"model": "mlp"},
    }
    assert Recipe.model_validate(table).teacher is None
    with pytest.raises(ValidationError, match=f"{place}: needs a teacher that can be run"):
        Recipe.model_validate(table | changes)
    Recipe.model_validate(table | changes | {"transfer_set": {"path": "somewhere"}})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "-x", "a b", "x" * 101])
def test_a_recipes_name_is_one_harmless_folder_name(name: str):
    with pytest.raises(ValidationError):
        Recipe.model_validate(
            {"name": name, "data": {"name": "digits"}, "student": {"model": "mlp"}}
        )


def test_an_entry_is_a_name_or_a_name_with_options():
    assert StudentOptions.model_validate({"model": "mlp"}).model.name == "mlp"
    table = {"model": {"name": "mlp", "hidden": [3]}}
    assert StudentOptions.model_validate(table).model.options == {"hidden": [3]}


def test_a_recipe_does_not_change_after_it_was_read():
    objective = Objective()
    with pytest.raises(ValidationError, match="frozen"):
        objective.temperature = 2.0  # type: ignore[misc]


def test_every_key_of_every_table_is_described():
    tables = (
        *(DataOptions, Augment, TeacherTrain, TeacherOptions, TransferSetOptions, StudentOptions),
        *(Objective, StudentTrain, Resources, Recipe),
    )
    for table in tables:
        for key, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{key}"
