from typing import Any

import pytest
import tomli_w
from tiny import tiny_recipe, tiny_table

from kd_ray.config import Range, SweepOptions
from kd_ray.config.read import load_recipe, parse_recipe
from kd_ray.errors import ConfigError

RATE = {"train.lr": {"log_uniform": [0.001, 0.1]}}
CHOICES = {"train.lr": {"choice": [0.01, 0.1]}}
WEIGHT = "objective.soft_weight"
RANGES = ("uniform", "log_uniform", "integer", "log_integer")
UPWARDS, DOWNWARDS = (
    ("accuracy", "agreement"),
    ("errors", "loss", "calibration_error", "divergence", "packed_bytes", "bit_operations"),
)
COSTS = ("packed_bytes", "bit_operations")


def read(**sweep: Any) -> SweepOptions:
    """`[sweep]` as a recipe has it, over one learning rate if no space is given."""
    table = tiny_table()
    table["sweep"] = {"space": RATE, **sweep}
    options = parse_recipe(table, "tiny").sweep
    assert options is not None
    return options


def refused(**sweep: Any) -> str:
    """What is said of a `[sweep]` that breaks a rule."""
    with pytest.raises(ConfigError) as caught:
        read(**sweep)
    return str(caught.value)


def range_refused(key: str = "train.lr", /, **values: Any) -> str:
    """What is said of one entry of the space; its place is checked and taken off."""
    said = refused(space={key: values})
    place = f"tiny: sweep.space.{key}"
    assert said.startswith(place)
    return said.removeprefix(place).removeprefix(": ")


def test_a_recipe_without_a_sweep_has_none() -> None:
    assert tiny_recipe().sweep is None


def test_a_sweep_of_a_space_alone_has_every_default() -> None:
    options = read()
    assert (options.trials, options.metrics, options.directions) == (32, ["accuracy"], ["maximize"])
    assert (options.sampler, options.stopping) == ("tpe", "asha")
    assert (options.seeds, options.max_failures, options.enqueue) == ([0], 3, None)


def test_a_sweep_reads_back_from_the_recipe_it_writes(tmp_path: Any) -> None:
    space = {
        "objective.temperature": {"log_uniform": [1, 20]},
        WEIGHT: {"log_uniform": [1e-05, 10], "times": "T^2", "or_zero": True},
        "student.model.hidden": {"choice": [[8], [16, 16]]},
        "student.quantizer.weight_bits": {"choice": [1, 2, 32]},
        "train.epochs": {"log_integer": [1, 30]},
    }
    recipe = tiny_recipe()
    options = read(space=space, enqueue=[{"objective.temperature": 4.0, WEIGHT: "T^2"}])
    whole = recipe.model_copy(update={"sweep": options})
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(whole.model_dump(mode="json", exclude_none=True)))
    assert load_recipe(path) == whole
    assert list(load_recipe(path).sweep.space) == list(space)  # type: ignore[union-attr]


@pytest.mark.parametrize("space", [{}, None])
def test_an_empty_space_is_refused(space: dict[str, Any] | None) -> None:
    table = tiny_table()
    table["sweep"] = {} if space is None else {"space": space}
    with pytest.raises(ConfigError, match=r"tiny: sweep\.space: (this key|dictionary)") as caught:
        parse_recipe(table, "tiny")
    assert ("at least 1 item" if space == {} else "is required; add it") in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"uniform": [1, 2], "choice": [1]}])
def test_a_range_of_no_kind_or_of_two_is_refused(values: dict[str, Any]) -> None:
    said = range_refused(**values)
    assert said == (
        "exactly one of uniform, log_uniform, integer, log_integer, choice is needed, "
        f"but got {list(values)}"
    )


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("ends", [[3, 1], [2, 2], [1], [1, 2, 3], []])
def test_a_range_upside_down_or_of_other_than_two_ends_is_refused(
    kind: str, ends: list[int]
) -> None:
    got = ends if kind.endswith("integer") else [float(end) for end in ends]
    said = range_refused(**{kind: ends})
    assert said.startswith(f"{kind} must be [low, high] with low < high, but got {got}; ")


@pytest.mark.parametrize("kind", ["log_uniform", "log_integer"])
@pytest.mark.parametrize("low", [0, -1])
def test_a_logarithm_that_does_not_begin_above_0_is_refused(kind: str, low: int) -> None:
    got = [low, 2] if kind.endswith("integer") else [float(low), 2.0]
    said = range_refused(**{kind: [low, 2]})
    assert said == f"{kind} must start above 0, where the logarithm begins, but got {got}"


def test_a_logarithm_of_the_soft_weight_from_0_is_told_how_to_have_no_soft_term() -> None:
    said = range_refused(WEIGHT, log_uniform=[0, 1], times="T^2")
    assert said.endswith("; use or_zero for no soft term")


@pytest.mark.parametrize("kind", ["uniform", "integer"])
def test_a_range_without_a_logarithm_may_begin_at_0_or_below(kind: str) -> None:
    for low in (0, -1):
        assert read(space={"train.lr": {kind: [low, 2]}}).space["train.lr"].ends == [low, 2]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"uniform": [0, float("inf")]}, "uniform.1: input should be a finite number"),
        ({"uniform": [float("nan"), 1]}, "uniform.0: input should be a finite number"),
        ({"uniform": [True, 2]}, "uniform.0: input should be a valid number"),
        ({"uniform": 5}, "uniform: input should be a valid list"),
        ({"integer": [1.5, 3]}, "integer.0: input should be a valid integer"),
        ({"choice": [1], "times": "T"}, "times: input should be 'T^2'"),
    ],
)
def test_an_end_of_a_wrong_type_is_refused_with_its_place(
    values: dict[str, Any], place: str
) -> None:
    assert range_refused(WEIGHT, **values).startswith(f".{place}, but got ")


@pytest.mark.parametrize("values", [[1, 1], [1, 2, 1.0], [[8], [4], [8]]])
def test_choices_are_named_once(values: list[Any]) -> None:
    said = range_refused(choice=values)
    assert said == f".choice: must have each value once, but got {values}"


def test_choices_are_one_or_more() -> None:
    assert range_refused(choice=[]) == ".choice: list should have at least 1 item, but got []"


def test_choices_of_lists_that_differ_are_taken() -> None:
    space = read(space={"student.model.hidden": {"choice": [[8], [8, 8]]}}).space
    assert space["student.model.hidden"].choice == [[8], [8, 8]]


def test_or_zero_beside_choices_is_refused() -> None:
    said = range_refused(WEIGHT, choice=[0.5, 1], or_zero=True)
    assert said == "or_zero goes with a range; put 0 among the choices instead"


@pytest.mark.parametrize("given", [{"times": "T^2"}, {"or_zero": True}])
def test_times_and_or_zero_of_anything_but_the_soft_weight_are_refused(
    given: dict[str, Any],
) -> None:
    said = refused(space={"train.lr": {"uniform": [1, 2], **given}})
    assert "space.train.lr: times and or_zero go with objective.soft_weight" in said
    assert read(space={WEIGHT: {"uniform": [1, 2], **given}}).space[WEIGHT].ends == [1, 2]


def test_a_misspelt_kind_of_range_is_answered_with_the_nearest() -> None:
    said = range_refused(log_unifrom=[1, 2])
    assert said.startswith(".log_unifrom: unknown key; did you mean 'log_uniform'?")


def test_a_misspelt_key_of_the_sweep_is_answered_with_the_nearest() -> None:
    assert "sweep.trails: unknown key; did you mean 'trials'?" in refused(trails=3)


def test_all_problems_of_a_space_are_told_at_once() -> None:
    said = refused(space={"train.lr": {"log_uniform": [3, 1]}, "train.momentum": {"choice": []}})
    assert said.startswith("tiny: 2 problems\n")
    assert "sweep.space.train.lr: log_uniform must be" in said
    assert "sweep.space.train.momentum.choice: list should have at least 1 item" in said


def test_grid_takes_choices_and_no_range() -> None:
    assert read(sampler="grid", space=CHOICES).sampler == "grid"
    said = refused(sampler="grid", space={**CHOICES, "train.momentum": {"uniform": [0.1, 0.9]}})
    assert said.endswith(
        "space.train.momentum: sampler grid goes through choices, but this is a range; "
        "use choice, or another sampler"
    )


@pytest.mark.parametrize("metric", UPWARDS + DOWNWARDS)
def test_each_metric_has_its_direction_unless_told_otherwise(metric: str) -> None:
    usual = "maximize" if metric in UPWARDS else "minimize"
    other = "minimize" if metric in UPWARDS else "maximize"
    assert read(metric=metric, scheduler="none").directions == [usual]
    assert read(metric=metric, scheduler="none", direction=other).directions == [other]
    assert read(metric=[metric], scheduler="none", direction=[other]).directions == [other]


def test_directions_come_in_the_order_of_the_metrics() -> None:
    assert read(metric=["loss", "accuracy"]).directions == ["minimize", "maximize"]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", ["maximize", "minimize"]),
        ("accuracy", []),
        (["accuracy", "packed_bytes"], "maximize"),
        (["accuracy", "packed_bytes"], ["maximize"]),
    ],
)
def test_more_or_fewer_directions_than_metrics_are_refused(metric: Any, direction: Any) -> None:
    metrics = [metric] if isinstance(metric, str) else metric
    directions = [direction] if isinstance(direction, str) else direction
    assert refused(metric=metric, direction=direction, scheduler="none") == (
        f"tiny: sweep: direction must be one for each metric, but got {directions} for {metrics}"
    )


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_scheduler_with_several_objectives_is_refused(scheduler: str) -> None:
    metrics = ["accuracy", "packed_bytes"]
    assert refused(metric=metrics, scheduler=scheduler) == (
        f"tiny: sweep: scheduler {scheduler} stops trials by one metric, but got {metrics}; "
        'use scheduler = "none" with several objectives'
    )


def test_the_scheduler_is_asha_for_one_objective_and_none_for_several() -> None:
    assert read().stopping == "asha"
    assert read(metric=["accuracy"]).stopping == "asha"
    assert read(metric=["accuracy", "packed_bytes"]).stopping == "none"
    assert read(metric=["accuracy", "packed_bytes"], scheduler="none").stopping == "none"
    assert read(scheduler="median").stopping == "median"


@pytest.mark.parametrize("metric", COSTS)
def test_a_scheduler_over_what_no_epoch_changes_is_refused(metric: str) -> None:
    for scheduler in (None, "asha", "median"):
        given = {} if scheduler is None else {"scheduler": scheduler}
        said = refused(metric=metric, **given)
        assert f"scheduler {scheduler or 'asha'} compares epochs, but {metric} is the same" in said
    assert read(metric=metric, scheduler="none").stopping == "none"


@pytest.mark.parametrize("values", [[], [1, 1]])
def test_seeds_are_one_or_more_each_once(values: list[int]) -> None:
    said = refused(seeds=values)
    assert said.startswith("tiny: sweep.seeds: ")
    assert said.endswith(f", but got {values}")


@pytest.mark.parametrize(
    ("metrics", "rule"),
    [
        ([], "list should have at least 1 item"),
        (["accuracy", "loss", "accuracy"], "must have each value once"),
    ],
)
def test_metrics_are_one_or_more_each_once(metrics: list[str], rule: str) -> None:
    assert refused(metric=metrics) == f"tiny: sweep.metric: {rule}, but got {metrics}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("metric", "acuracy"), ("metric", ["acuracy"]), ("direction", "up")],
)
def test_an_unknown_metric_or_direction_is_one_problem_in_plain_words(key: str, value: Any) -> None:
    said = refused(**{key: value})
    assert said.startswith(f"tiny: sweep.{key}")
    assert "problems" not in said
    assert "literal" not in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trials", 0),
        ("trials", 2.5),
        ("grace", 0),
        ("reduction", 1),
        ("max_failures", -1),
        ("seed", -1),
        ("sampler", "gird"),
        ("scheduler", "ahsa"),
    ],
)
def test_a_value_past_the_edge_of_a_rule_is_refused_with_its_place(key: str, value: Any) -> None:
    said = refused(**{key: value})
    assert said.startswith(f"tiny: sweep.{key}: input should be ")
    assert said.endswith(f", but got {value!r}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("trials", 1), ("grace", 1), ("reduction", 2), ("max_failures", 0), ("enqueue", [])],
)
def test_a_value_at_the_edge_of_a_rule_is_taken(key: str, value: Any) -> None:
    assert getattr(read(**{key: value}), key) == value


def test_every_key_of_a_sweep_is_described() -> None:
    for table in (SweepOptions, Range):
        for key, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{key}"
