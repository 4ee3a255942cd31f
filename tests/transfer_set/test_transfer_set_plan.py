import json
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_sets import tiny_plan

from kd_ray.errors import TransferSetError
from kd_ray.transfer_set import Plan
from kd_ray.transfer_set.plan import canonical_json


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every number, text and flag of nested JSON is."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, child in items for place in leaves(child, (*path, key))]
    return [path]


def other(value: Any, path: tuple[Any, ...]) -> Any:
    """Another value that the schema allows at this place."""
    known = {"float16": "float32", "float32": "float16", "none": "zstd"}
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.125
    if path[-1] in ("sha256", "index_sha256"):
        return value[:-1] + ("1" if value[-1] == "0" else "0")
    return known.get(value, value + "x")


PLAN = tiny_plan(members=2)
LEAVES = leaves(json.loads(PLAN.json_text))
# A class name is told by the dataset and by every teacher, and they must agree.
ALONE = [
    path
    for path in LEAVES
    if "class_names" not in path and path != ("format_version",) and path[0] != "image_shape"
]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: ".".join(map(str, path)))
def test_plan_sha256_changes_with_every_value(path: tuple[Any, ...]) -> None:
    values = json.loads(PLAN.json_text)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other(place[path[-1]], path)
    assert Plan.model_validate(values).json_text != PLAN.json_text


@pytest.mark.parametrize(
    "changed",
    [
        tiny_plan(members=3),
        tiny_plan(members=2, classes=4),
        tiny_plan(members=2, image_shape=(1, 4, 1)),
        tiny_plan(members=2, teachers=PLAN.teachers[::-1]),
        tiny_plan(members=2, augment={"shift": 0}),
    ],
)
def test_plan_sha256_changes_with_members_classes_and_shape(changed: Plan) -> None:
    assert changed.json_text != PLAN.json_text


def test_plan_names_every_field_in_its_hash() -> None:
    assert {path[0] for path in LEAVES} | {"code"} == set(Plan.model_fields)
    code = {"sha256": "c" * 64, "bytes": 9, "row_bytes": 2}
    compact = tiny_plan(members=2, dtype="compact", code=code)
    assert f'"code":{canonical_json(code)}' in compact.json_text


def test_plan_read_back_from_its_json_is_the_same() -> None:
    again = Plan.model_validate(json.loads(PLAN.json_text))
    assert again == PLAN
    assert again.json_text == PLAN.json_text
    assert Plan.model_validate_json(PLAN.json_text) == PLAN


def test_plan_sha256_does_not_depend_on_the_order_of_keys_nor_on_lists_for_tuples() -> None:
    values = dict(reversed(json.loads(PLAN.json_text).items()))
    assert isinstance(values["class_names"], list)
    assert Plan(**values).json_text == PLAN.json_text


def test_plan_refuses_a_teacher_of_other_classes_and_names_the_class() -> None:
    teacher = PLAN.teachers[0].model_copy(update={"class_names": ("class-0", "cat", "class-2")})
    with pytest.raises(
        TransferSetError, match=r"class 1 is 'cat' there and 'class-1' here .*teacher 1"
    ):
        tiny_plan(teachers=(PLAN.teachers[0], teacher))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5, 0.5)},
        {"image_shape": (0, 2, 2), "mean": (), "std": ()},
        {"teachers": ()},
        {"views": 0},
        {"dtype": "float64"},
        {"seed": "0"},
        {"unlabelled": 1.5},
        {"std": (float("nan"),)},
        {"splits": {"train": PLAN.splits["train"]}},
        {"another": 1},
    ],
    ids=str,
)
def test_plan_refuses_values_outside_its_rules(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tiny_plan(**changes)
