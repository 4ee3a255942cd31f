import pickle
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.catalog import call_problems, pick, suggestion
from kd_ray.errors import ConfigError, UnknownNameError


def paint(
    *,
    width: int,
    colors: list[str],
    gloss: float = 0.5,
    tool: Literal["brush", "roller"] = "brush",
    coats: Sequence[int] | None = None,
) -> dict[str, Any]:
    return {"width": width, "colors": colors, "gloss": gloss, "tool": tool, "coats": coats}


GOOD = {"width": 3, "colors": ["red"]}


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(), min_size=1), st.data())
def test_pick_returns_the_entry_of_every_known_name(catalogue: dict[str, int], data: Any):
    name = data.draw(st.sampled_from(sorted(catalogue)))
    assert pick("thing", catalogue, name) == catalogue[name]


def test_pick_of_a_near_miss_offers_the_nearest_name_and_all_others():
    with pytest.raises(UnknownNameError) as caught:
        pick("model", {"resnet20": 1, "mlp": 2}, "resnet21")
    assert str(caught.value) == (
        "unknown model 'resnet21'; did you mean 'resnet20'? known: mlp, resnet20"
    )


def test_pick_fails_with_a_config_error_that_survives_pickling():
    with pytest.raises(ConfigError) as caught:
        pick("model", {"mlp": 1}, "zzz")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.args) == (UnknownNameError, caught.value.args)


def test_suggestion_without_anything_near_lists_the_names_only():
    assert suggestion("zzz", ["b", "a"]) == "known: a, b"


def test_call_problems_are_none_for_calls_that_work():
    for options in (
        GOOD,
        {**GOOD, "gloss": 1, "tool": "roller"},
        {**GOOD, "coats": [1, 2]},
        {**GOOD, "coats": None},
    ):
        assert call_problems("wall", paint, options) == []
        assert paint(**options)["width"] == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 3}, "wall.colors: this key is required"),
        ({**GOOD, "colours": []}, "wall.colours: unknown key; did you mean 'colors'? known: "),
        ({**GOOD, "width": 3.0}, "wall.width: "),
        ({**GOOD, "width": True}, "wall.width: "),
        ({**GOOD, "width": "3"}, "but got '3'"),
        ({**GOOD, "colors": ["red", 7]}, "wall.colors.1: "),
        ({**GOOD, "colors": "red"}, "wall.colors: "),
        ({**GOOD, "gloss": "high"}, "but got 'high'"),
        ({**GOOD, "tool": "spoon"}, "but got 'spoon'"),
        ({**GOOD, "coats": [1.5]}, "wall.coats.0: "),
    ],
)
def test_call_problems_name_the_place_and_the_value(options: dict[str, Any], sentence: str):
    (problem,) = call_problems("wall", paint, options)
    assert sentence in problem
    assert problem.startswith("wall.")


def test_call_problems_are_all_told_at_once():
    problems = call_problems("wall", paint, {"colors": [1, 2], "glos": 0.1})
    assert [problem.split(":")[0] for problem in problems] == [
        "wall.glos",
        "wall.width",
        "wall.colors.0",
        "wall.colors.1",
    ]


def test_call_problems_hide_the_parameters_that_the_program_gives():
    assert call_problems("wall", paint, {"colors": []}, given=["width"]) == []
    (problem,) = call_problems("wall", paint, GOOD, given=["width"])
    assert problem.startswith("wall.width: unknown key; ")
    assert "width" not in problem.split("known:")[1]
