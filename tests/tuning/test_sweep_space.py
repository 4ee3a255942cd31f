from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tiny import tiny_recipe, tiny_table

from kd_ray.config import Recipe, SoftWeight, SweepOptions
from kd_ray.config.read import parse_recipe
from kd_ray.errors import ConfigError
from kd_ray.pipeline import catalogue_problems
from tuning.space import (
    NO_SOFT_TERM,
    distributions,
    first_points,
    names_shown,
    parameters_of,
    settings_of,
    shown,
    space_problems,
    trial_recipe,
)

T, C, HIDDEN, RATE, EPOCHS = (
    "objective.temperature",
    "objective.soft_weight",
    "student.model.hidden",
    "train.lr",
    "train.epochs",
)
TEMPERATURES = {T: {"log_uniform": [1, 20]}}
TWO_LAYERS = "student.model={name='mlp', hidden=[8, 8]}"
WEIGHTS = {C: {"log_uniform": [0.1, 10], "times": "T^2"}}


def options(space: Mapping[str, Any], **sweep: Any) -> SweepOptions:
    return SweepOptions.model_validate({"space": dict(space), **sweep})


def recipe(space: Mapping[str, Any], *overrides: str, **sweep: Any) -> Recipe:
    """The tiny recipe with a sweep over `space`."""
    table = tiny_table(*overrides)
    table["sweep"] = {"space": dict(space), **sweep}
    return parse_recipe(table, "tiny", [catalogue_problems])


def problems(space: Mapping[str, Any], *overrides: str) -> list[str]:
    return space_problems(recipe(space, *overrides), [catalogue_problems])


positive = st.floats(1e-6, 1e6)


def pairs(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Two ends, the lower one first."""
    return st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)


float_ranges = st.builds(
    lambda kind, ends: {kind: ends}, st.sampled_from(["uniform", "log_uniform"]), pairs(positive)
)
int_ranges = st.builds(
    lambda kind, ends: {kind: ends},
    st.sampled_from(["integer", "log_integer"]),
    pairs(st.integers(1, 10**6)),
)
plain_values = st.one_of(st.integers(-9, 9), positive, st.text(max_size=5), st.booleans())
choices = st.lists(
    plain_values | st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=4
).map(lambda values: {"choice": [v for at, v in enumerate(values) if v not in values[:at]]})
weights = st.builds(
    lambda values, times, zero: {
        **values,
        **({"times": "T^2"} if times else {}),
        **({"or_zero": True} if zero else {}),
    },
    float_ranges,
    st.booleans(),
    st.booleans(),
) | st.builds(
    lambda values, times: {"choice": values, **({"times": "T^2"} if times else {})},
    st.lists(positive, min_size=1, max_size=4, unique=True),
    st.booleans(),
)
spaces = st.dictionaries(
    st.sampled_from([T, HIDDEN, RATE, EPOCHS]), float_ranges | int_ranges | choices, max_size=4
).flatmap(
    lambda others: st.builds(
        lambda weight: {**others, **({} if weight is None else {C: weight})}, weights | st.none()
    )
)


@st.composite
def points(draw: st.DrawFn) -> tuple[SweepOptions, dict[str, Any]]:
    """A space, and parameters that Optuna could suggest for it."""
    space = draw(spaces)
    assume(space)
    found = options(space)
    parameters: dict[str, Any] = {}
    for name, values in distributions(found).items():
        if name in (C, T) and parameters.get(NO_SOFT_TERM):
            continue
        if isinstance(values, CategoricalDistribution):
            parameters[name] = draw(st.sampled_from(values.choices))
        elif isinstance(values, IntDistribution):
            parameters[name] = draw(st.integers(values.low, values.high))
        else:
            parameters[name] = draw(st.floats(values.low, values.high))
    return found, parameters


@given(points())
def test_parameters_of_undoes_settings_of(point: tuple[SweepOptions, dict[str, Any]]) -> None:
    found, parameters = point
    again = parameters_of(settings_of(parameters, found), found)
    assert again == parameters
    assert {name: type(value) for name, value in again.items()} == {
        name: type(value) for name, value in parameters.items()
    }


@given(points())
def test_settings_of_undoes_parameters_of(point: tuple[SweepOptions, dict[str, Any]]) -> None:
    found, parameters = point
    settings = settings_of(parameters, found)
    assert settings_of(parameters_of(settings, found), found) == settings
    assert set(settings) <= set(found.space)


@given(factor=positive, temperature=st.floats(1, 20))
def test_a_weight_of_times_is_that_multiple_of_the_trials_own_squared_temperature(
    factor: float, temperature: float
) -> None:
    swept = recipe({**TEMPERATURES, C: {"uniform": [1e-7, 1e7], "times": "T^2"}})
    assert swept.sweep is not None
    settings = settings_of({T: temperature, C: factor}, swept.sweep)
    objective = trial_recipe(swept, settings).objective
    assert objective.temperature == temperature
    assert objective.soft_weight.value(temperature) == factor * temperature**2


def test_distributions_are_those_of_the_space_in_its_order() -> None:
    space = {
        EPOCHS: {"log_integer": [1, 30]},
        T: {"log_uniform": [1, 20]},
        "train.momentum": {"uniform": [0.5, 0.9]},
        "student.quantizer.weight_bits": {"integer": [2, 8]},
        HIDDEN: {"choice": [[8], [16, 16]]},
    }
    found = distributions(options(space))
    assert list(found.items()) == [
        (EPOCHS, IntDistribution(1, 30, log=True)),
        (T, FloatDistribution(1, 20, log=True)),
        ("train.momentum", FloatDistribution(0.5, 0.9)),
        ("student.quantizer.weight_bits", IntDistribution(2, 8)),
        (HIDDEN, CategoricalDistribution(["[8]", "[16, 16]"])),
    ]


def test_no_soft_term_is_asked_for_before_what_depends_on_it() -> None:
    space = {T: {"log_uniform": [1, 20]}, C: {"log_uniform": [0.1, 10], "or_zero": True}}
    assert next(iter(distributions(options(space)).items())) == (
        NO_SOFT_TERM,
        CategoricalDistribution([False, True]),
    )


def test_choices_of_lists_reach_the_recipe_as_lists() -> None:
    swept = recipe({HIDDEN: {"choice": [[8], [16, 16]]}})
    assert swept.sweep is not None
    settings = settings_of({HIDDEN: "[16, 16]"}, swept.sweep)
    assert settings == {HIDDEN: [16, 16]}
    assert trial_recipe(swept, settings).student.model.options["hidden"] == [16, 16]
    assert parameters_of({HIDDEN: [8]}, swept.sweep) == {HIDDEN: "[8]"}


def test_without_a_soft_term_c_is_0_and_t_stays_what_the_recipe_says() -> None:
    swept = recipe({**TEMPERATURES, C: {**WEIGHTS[C], "or_zero": True}}, "objective.temperature=3")
    assert swept.sweep is not None
    settings = settings_of({NO_SOFT_TERM: True}, swept.sweep)
    assert settings == {C: 0.0}
    objective = trial_recipe(swept, settings).objective
    assert (objective.temperature, objective.soft_weight.factor) == (3.0, 0.0)
    with_term = settings_of({NO_SOFT_TERM: False, T: 2.0, C: 0.5}, swept.sweep)
    assert with_term == {T: 2.0, C: "0.5*T^2"}


def test_a_trials_recipe_is_the_sweeps_with_its_values_and_seeds_and_no_sweep() -> None:
    swept = recipe({RATE: {"uniform": [0.1, 0.2]}}, "train.seeds=[7]", seeds=[1, 2])
    of_trial = trial_recipe(swept, {RATE: 0.15})
    expected = tiny_recipe("train.lr=0.15", "train.seeds=[1, 2]")
    assert of_trial == expected
    assert swept.train.lr == tiny_recipe().train.lr


def test_a_key_may_begin_a_table_that_the_recipe_leaves_out() -> None:
    swept = recipe({"student.quantizer.weight_bits": {"choice": [2, 32]}}, TWO_LAYERS)
    assert swept.student.quantizer is None
    of_trial = trial_recipe(swept, {"student.quantizer.weight_bits": 2})
    assert of_trial.student.quantizer is not None
    assert of_trial.student.quantizer.weight_bits == 2
    assert space_problems(swept, [catalogue_problems]) == []


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("objective.temprature", "objective.temprature: unknown key; did you mean 'temperature'?"),
        ("student.quantizer.weight_bit", "weight_bit: unknown key; did you mean 'weight_bits'?"),
        ("student.model.hiden", "student.model.hiden: unknown key; did you mean 'hidden'?"),
        ("trian.lr", "trian: unknown key; did you mean 'train'?"),
        ("lr", "lr: unknown key"),
    ],
)
def test_a_key_that_the_recipe_does_not_have_is_answered_with_the_nearest(
    key: str, sentence: str
) -> None:
    (found,) = problems({key: {"uniform": [1, 2]}})
    assert found.startswith(f"sweep.space.{key}: ")
    assert sentence in found


@pytest.mark.parametrize(
    "key",
    [
        *("teacher.train.lr", "data.fraction", "transfer_set.views", "resources.workers"),
        *("sweep.trials", "name"),
    ],
)
def test_a_key_that_all_trials_share_is_refused(key: str) -> None:
    (found,) = problems({key: {"integer": [1, 2]}})
    assert found.startswith(f"sweep.space.{key}: all trials share one teacher and transfer set")


@pytest.mark.parametrize("key", ["train.seeds", "student.baselines", "student.continues"])
def test_a_key_that_is_the_sweeps_own_is_refused(key: str) -> None:
    (found,) = problems({key: {"choice": [[1], [2]]}})
    assert found.startswith(f"sweep.space.{key}: is the sweep's own")


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [
        (T, {"uniform": [0, 5]}, "objective.temperature: input should be greater than"),
        ("train.momentum", {"uniform": [0.5, 1.0]}, "train.momentum: input should be less than 1"),
        ("objective.soft_decay", {"uniform": [0.5, 1.5]}, "less than or equal to 1"),
        (RATE, {"choice": [0.1, 0.2, -1]}, "train.lr: input should be greater than 0"),
        (EPOCHS, {"uniform": [1, 2]}, "train.epochs: input should be a valid integer"),
        (HIDDEN, {"choice": [[8], ["wide"]]}, "student.model.hidden.0: input should be a valid"),
        ("train.schedule", {"choice": ["cosine", "cosin"]}, "did you mean 'cosine'?"),
        ("train.patience.rows", {"integer": [1, 2]}, "patience"),
        (C, {"choice": [1, "T^3"]}, "must be a number >= 0 and <= 1e12"),
    ],
)
def test_a_value_at_an_end_that_the_recipe_refuses_is_reported_with_its_rule(
    key: str, values: dict[str, Any], sentence: str
) -> None:
    (found,) = problems({key: values})
    assert found.startswith(f"sweep.space.{key}: ")
    assert sentence in found


def test_the_problems_of_all_keys_are_reported() -> None:
    found = problems({T: {"uniform": [0, 5]}, RATE: {"uniform": [0.1, 0.2]}, "lr": {"choice": [1]}})
    assert [problem.split(": ")[0] for problem in found] == [f"sweep.space.{T}", "sweep.space.lr"]


def test_no_soft_term_where_nothing_else_is_learned_from_is_reported() -> None:
    space = {C: {"log_uniform": [0.1, 10], "or_zero": True}}
    assert problems(space) == []
    (found,) = problems(space, "objective.hard_weight=0")
    assert "hard_weight and soft_weight must not both be 0" in found


def test_whole_numbers_between_the_ends_that_the_recipe_refuses_are_reported() -> None:
    """Bits are 1 to 8 or 32: both ends are fine, and most of what lies between is not."""
    space = {"student.quantizer.weight_bits": {"integer": [1, 32]}}
    (found,) = problems(space, TWO_LAYERS)
    assert "bits must be 1 to 8, or 32 for float" in found


def first(space: Mapping[str, Any], *overrides: str, **sweep: Any) -> list[dict[str, Any]]:
    return first_points(recipe(space, *overrides, **sweep))


def test_first_points_are_known_to_be_good_where_they_are_in_the_space() -> None:
    both = {**TEMPERATURES, **WEIGHTS}
    assert first(both) == [{T: 4.0, C: 1.0}, {T: 20.0, C: 1.0}]
    assert first({**TEMPERATURES, C: {**WEIGHTS[C], "or_zero": True}}) == [
        {T: 4.0, NO_SOFT_TERM: False, C: 1.0},
        {T: 20.0, NO_SOFT_TERM: False, C: 1.0},
    ]
    assert first(TEMPERATURES) == [{T: 4.0}, {T: 20.0}]
    assert first({T: {"integer": [1, 20]}}) == [{T: 4}, {T: 20}]
    assert first({T: {"choice": [2, 4]}}) == [{T: 4}]


def test_first_points_have_the_recipes_own_values_of_other_keys_where_these_are_in_the_space() -> (
    None
):
    space = {
        **TEMPERATURES,
        RATE: {"log_uniform": [0.001, 0.1]},
        HIDDEN: {"choice": [[9], [8]]},
        EPOCHS: {"integer": [3, 9]},
    }
    own = {RATE: 0.01, HIDDEN: "[8]"}
    assert first(space) == [{T: 4.0, **own}, {T: 20.0, **own}]


@pytest.mark.parametrize(
    ("space", "temperatures"),
    [
        ({T: {"uniform": [1, 19]}, **WEIGHTS}, [4.0]),
        ({T: {"uniform": [5, 19]}, **WEIGHTS}, []),
        ({**TEMPERATURES, C: {"log_uniform": [2, 10], "times": "T^2"}}, []),
        (WEIGHTS, []),
        ({RATE: {"uniform": [0.1, 0.2]}}, []),
    ],
)
def test_first_points_outside_the_space_are_left_out(
    space: dict[str, Any], temperatures: list[float]
) -> None:
    assert [point[T] for point in first(space)] == temperatures


@pytest.mark.parametrize(
    "weights",
    [
        WEIGHTS[C],
        {**WEIGHTS[C], "or_zero": True},
        {"log_uniform": [2, 10], "times": "T^2"},
        {"log_uniform": [0.1, 500]},
        {"choice": [1, "T^2", "0.5*T^2"]},
        {"choice": [0.5, 1], "times": "T^2"},
    ],
)
def test_first_points_never_leave_c_to_chance(weights: dict[str, Any]) -> None:
    """They are good for c = T^2 alone."""
    swept = recipe({**TEMPERATURES, C: weights})
    assert swept.sweep is not None
    for point in first_points(swept):
        settings = settings_of(point, swept.sweep)
        assert C in settings
        objective = trial_recipe(swept, settings).objective
        assert objective.soft_weight.value(objective.temperature) == objective.temperature**2


def test_first_points_that_are_given_replace_those_known_to_be_good() -> None:
    space = {**TEMPERATURES, C: {**WEIGHTS[C], "or_zero": True}, HIDDEN: {"choice": [[8], [9]]}}
    given = [{T: 2, C: "0.5*T^2", HIDDEN: [9]}, {C: 0}, {HIDDEN: [8]}]
    assert first(space, enqueue=given) == [
        {T: 2.0, NO_SOFT_TERM: False, C: 0.5, HIDDEN: "[9]"},
        {NO_SOFT_TERM: True},
        {HIDDEN: "[8]"},
    ]
    assert first(space, enqueue=[]) == []


def test_first_points_of_a_grid_are_every_combination_once() -> None:
    space = {T: {"choice": [1, 4]}, HIDDEN: {"choice": [[8], [9]]}, RATE: {"choice": [0.1]}}
    swept = recipe(space, sampler="grid", trials=4)
    assert swept.sweep is not None
    points = first_points(swept)
    assert len(points) == 4
    settings = [settings_of(point, swept.sweep) for point in points]
    assert settings == [{T: t, HIDDEN: h, RATE: 0.1} for t in (1, 4) for h in ([8], [9])]


@pytest.mark.parametrize(
    ("space", "point", "sentence"),
    [
        (TEMPERATURES, {T: 21}, f"{T} = 21 lies outside the space"),
        (TEMPERATURES, {T: 0.5}, "widen the space or leave the point out"),
        (TEMPERATURES, {"objective.temprature": 4}, f"did you mean '{T}'?"),
        (TEMPERATURES, {T: "warm"}, f"{T} must be a number in the space, but got 'warm'"),
        (TEMPERATURES, {T: True}, "must be a number in the space, but got True"),
        (TEMPERATURES, {T: [4]}, "must be a number in the space, but got [4]"),
        ({EPOCHS: {"integer": [1, 9]}}, {EPOCHS: 2.5}, "must be a number in the space"),
        ({HIDDEN: {"choice": [[8]]}}, {HIDDEN: [9]}, "lies outside the space"),
        (WEIGHTS, {C: 1}, "must be a multiple of T^2, as it is in the space, but got 1"),
        (WEIGHTS, {C: 0}, "lies outside the space"),
        (WEIGHTS, {C: "T^3"}, "must be a number >= 0 and <= 1e12"),
        ({C: {"uniform": [1, 9]}}, {C: "T^2"}, "must be a number, as it is in the space"),
    ],
)
def test_a_point_outside_the_space_is_refused(
    space: dict[str, Any], point: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=r"^sweep\.enqueue: ") as caught:
        first(space, enqueue=[point])
    assert sentence in str(caught.value)


def test_names_shown_are_short_and_different_from_each_other() -> None:
    space = {
        **TEMPERATURES,
        **WEIGHTS,
        "student.quantizer.weight_bits": {"choice": [1]},
        "student.quantizer.activation_bits": {"choice": [1]},
        RATE: {"uniform": [0.1, 0.2]},
        "student.model.lr": {"choice": [1]},
    }
    names = names_shown(options(space))
    assert list(names) == ["T", "c / T²", "W bits", "A bits", "lr", "student.model.lr"]
    assert list(names.values()) == list(space)
    assert list(names_shown(options({C: {"uniform": [1, 2]}}))) == ["c"]


def test_shown_settings_have_c_in_units_of_the_squared_temperature() -> None:
    found = options({**TEMPERATURES, C: {**WEIGHTS[C], "or_zero": True}})
    factor = 1 / 3
    weight = str(SoftWeight(factor=factor, times_temperature_squared=True))
    assert shown({T: 4.0, C: weight}, found) == {"T": "4", "c / T²": "0.3333"}
    assert shown({C: 0.0}, found) == {"c / T²": "0"}
