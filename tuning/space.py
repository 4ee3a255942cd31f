"""The search space: from keys of a recipe to Optuna's parameters, and back to a trial's recipe.

A parameter is called what its key is called. Two things are translated: a choice that is no plain
value, such as a list of widths, is stored as JSON; and "no soft term" is a parameter of its own,
because a logarithmic range has no 0.
"""

import contextlib
import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kd_ray.catalog import suggestion
from kd_ray.config import Range, Recipe, SoftWeight, SweepOptions, parse_recipe
from kd_ray.errors import ConfigError
from kd_ray.runs.fit import flattened

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import Trial

    Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

SEARCHED = ("objective", "student", "train")
SOFT_WEIGHT, TEMPERATURE = "objective.soft_weight", "objective.temperature"
BITS = {"student.quantizer.weight_bits": "W", "student.quantizer.activation_bits": "A"}
"""Key of a recipe -> letter before its bits."""

NO_SOFT_TERM = "no soft term"
"""Name of the parameter that leaves the soft term out."""

KNOWN_GOOD = (4.0, 20.0)
"""Temperatures that papers use with c = T^2; a sweep tries them first where it may."""

MOST_TRIED = 64
"""Whole numbers of a range that are checked one by one."""

Settings = dict[str, Any]
"""Key -> value as a recipe writes it."""


def distributions(options: SweepOptions) -> dict[str, "Distribution"]:
    """Parameter -> Optuna's distribution, in the order of the space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    spread: dict[str, Distribution] = {}
    if any(values.or_zero for values in options.space.values()):
        spread[NO_SOFT_TERM] = CategoricalDistribution([False, True])
    for key, values in options.space.items():
        if values.choice is not None:
            spread[key] = CategoricalDistribution([_plain(value) for value in values.choice])
            continue
        low, high = values.ends
        if values.is_whole:
            spread[key] = IntDistribution(int(low), int(high), log=values.is_log)
        else:
            spread[key] = FloatDistribution(low, high, log=values.is_log)
    return spread


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def suggested(options: SweepOptions, trial: "Trial") -> dict[str, Any]:
    """Parameters of a trial, asked for one by one: T and c are not where they mean nothing."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, values in distributions(options).items():
        if name in (SOFT_WEIGHT, TEMPERATURE) and found.get(NO_SOFT_TERM):
            continue
        if isinstance(values, CategoricalDistribution):
            found[name] = trial.suggest_categorical(name, values.choices)
        else:
            whole = isinstance(values, IntDistribution)
            suggest: Any = trial.suggest_int if whole else trial.suggest_float
            found[name] = suggest(name, values.low, values.high, log=values.log)
    return found


def settings_of(parameters: Mapping[str, Any], options: SweepOptions) -> Settings:
    """The values that a trial's parameters give to keys of the recipe.

    >>> space = {"objective.soft_weight": {"log_uniform": [0.1, 10], "times": "T^2"}}
    >>> settings_of({"objective.soft_weight": 0.5}, SweepOptions(space=space))
    {'objective.soft_weight': '0.5*T^2'}
    """
    found: Settings = {}
    for key, values in options.space.items():
        if key == SOFT_WEIGHT and parameters.get(NO_SOFT_TERM):
            found[key] = 0.0
        elif key in parameters:
            found[key] = _recipe_value(values, parameters[key])
    return found


def _recipe_value(values: Range, parameter: Any) -> Any:
    if values.choice is not None:
        parameter = next(value for value in values.choice if _plain(value) == parameter)
    if values.times and not isinstance(parameter, str):
        return str(SoftWeight(factor=parameter, times_temperature_squared=True))
    return parameter


def parameters_of(settings: Mapping[str, Any], options: SweepOptions) -> dict[str, Any]:
    """The parameters of a point that is written like a recipe; the inverse of `settings_of`.

    Raises:
        ConfigError: a key or a value that the space does not have.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        values = options.space.get(key)
        if values is None:
            raise ConfigError(
                f"sweep.enqueue: {key} is not in the space; {suggestion(key, options.space)}"
            )
        parameter = _parameter(key, values, value)
        if values.or_zero:
            found[NO_SOFT_TERM] = parameter == 0
            if parameter == 0:
                continue
        if values.choice is None:
            low, high = values.ends
            inside = low <= parameter <= high
        else:
            inside = parameter in [_plain(choice) for choice in values.choice]
        if not inside:
            raise ConfigError(
                f"sweep.enqueue: {key} = {value!r} lies outside the space "
                f"({values.model_dump(exclude_none=True, exclude_defaults=True)}); widen the space "
                "or leave the point out"
            )
        found[key] = parameter
    return found


def _parameter(key: str, values: Range, value: Any) -> Any:
    if values.choice is not None and value in values.choice:
        return _plain(value)
    if key == SOFT_WEIGHT:
        try:
            weight = SoftWeight.parse(value)
        except ValueError as error:
            raise ConfigError(f"sweep.enqueue: {key} {error}") from None
        if weight.factor and weight.times_temperature_squared != bool(values.times):
            form = "multiple of T^2" if values.times else "number"
            raise ConfigError(
                f"sweep.enqueue: {key} must be a {form}, as it is in the space, but got {value!r}"
            )
        return weight.factor
    if values.choice is not None:
        return _plain(value)
    if isinstance(value, bool | str | list) or (values.is_whole and value != int(value)):
        raise ConfigError(f"sweep.enqueue: {key} must be a number in the space, but got {value!r}")
    return int(value) if values.is_whole else float(value)


def names_shown(options: SweepOptions) -> dict[str, str]:
    """What tables call the keys of a space: name -> key.

    >>> space = {"objective.temperature": {"uniform": [1, 2]}, "train.lr": {"uniform": [0, 1]}}
    >>> names_shown(SweepOptions(space=space))
    {'T': 'objective.temperature', 'lr': 'train.lr'}
    """
    short = {TEMPERATURE: "T", SOFT_WEIGHT: "c"} | {k: f"{bits} bits" for k, bits in BITS.items()}
    found: dict[str, str] = {}
    for key, values in options.space.items():
        name = "c / T²" if values.times else short.get(key, key.split(".")[-1])
        found[key if name in found else name] = key
    return found


def shown(settings: Mapping[str, Any], options: SweepOptions) -> dict[str, str]:
    """A trial's settings as texts, by the names of `names_shown`; without what it does not set."""
    found = {}
    for name, key in names_shown(options).items():
        if key in settings:
            value = settings[key]
            if options.space[key].times:
                value = SoftWeight.parse(value).factor
            found[name] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return found


def first_points(recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters of the points that are tried before the sampler is asked.

    Known-good ones have the recipe's own values where they say nothing themselves.

    Raises:
        ConfigError: a point that is not in the space, or a grid of fewer points than trials.
    """
    options = recipe.sweep
    assert options is not None
    if options.sampler == "grid":
        choices = [map(_plain, values.choice or []) for values in options.space.values()]
        grid = [dict(zip(options.space, p, strict=True)) for p in itertools.product(*choices)]
        if options.trials > len(grid):
            raise ConfigError(
                f"sweep.trials: the grid has {len(grid)} points, but {options.trials} trials were "
                f"asked for; use {len(grid)}, or another sampler"
            )
        return grid
    if options.enqueue is not None:
        return [parameters_of(point, options) for point in options.enqueue]
    if TEMPERATURE not in options.space:
        return []
    known = {TEMPERATURE, SOFT_WEIGHT} & options.space.keys()
    own = flattened(recipe.model_dump(mode="json", exclude_none=True))
    others = [(key, value) for key, value in own.items() if key not in known]
    points = []
    for temperature in KNOWN_GOOD:
        point: dict[str, Any] = {}
        weights = ("T^2", temperature**2)  # the same, and the space has one of the two at most
        wanted = [(TEMPERATURE, temperature), *((SOFT_WEIGHT, weight) for weight in weights)]
        for key, value in (*wanted, *others):
            with contextlib.suppress(ConfigError):  # the space may not have it
                point |= parameters_of({key: value}, options)
        if known <= point.keys():
            points.append(point)
    return points


def trial_recipe(recipe: Recipe, settings: Mapping[str, Any], rules: Any = ()) -> Recipe:
    """The recipe of one trial: that of the sweep with the trial's values and seeds, and no sweep.

    Raises:
        ConfigError: the values do not go together.
    """
    assert recipe.sweep is not None
    table = recipe.model_dump(mode="json", exclude_none=True, exclude={"sweep"})
    table["train"]["seeds"] = list(recipe.sweep.seeds)
    if recipe.sweep.hold_out and not recipe.data.validation:
        table["train"]["hold_out"] = recipe.sweep.hold_out
    for key, value in settings.items():
        *path, last = key.split(".")
        inner = table
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"sweep.space.{key}: {part} is a value, not a table")
        inner[last] = value
    return parse_recipe(table, recipe.name, rules)


def space_problems(recipe: Recipe, rules: Any = ()) -> list[str]:
    """What is wrong with a recipe's space: every key at each of its ends, or each choice."""
    options = recipe.sweep
    assert options is not None
    found = []
    for key, values in options.space.items():
        table = key.split(".")[0]
        if table in Recipe.model_fields and table not in SEARCHED:
            found.append(
                f"sweep.space.{key}: all trials share one teacher and transfer set, so a space "
                f"has keys of {', '.join(SEARCHED)} alone; leave it out, or make two sweeps"
            )
            continue
        if key in ("train.seeds", "student.continues", "student.baselines"):
            found.append(f"sweep.space.{key}: is the sweep's own; see sweep.seeds")
            continue
        ends: list[Any] = list(values.choice or values.ends)
        if values.is_whole:  # bits of 1 and of 32 are good, and most between them are not
            ends = [*range(ends[0], ends[1])[:MOST_TRIED], ends[1]]
        if values.or_zero:
            ends.append(0.0)
        for end in ends:
            value = _recipe_value(values, _plain(end))
            try:
                trial_recipe(recipe, {key: value}, rules)
            except ConfigError as error:
                found.append(f"sweep.space.{key}: {str(error).removeprefix(f'{recipe.name}: ')}")
                break
    return found
