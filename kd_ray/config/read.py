"""The strict reader: TOML and overrides in, a `Recipe` or all of its problems out."""

import math
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kd_ray.catalog import suggestion, value_problems
from kd_ray.config.schema import Recipe
from kd_ray.config.table import Named
from kd_ray.errors import ConfigError
from kd_ray.files import to_path

Rule = Callable[[Recipe], list[str]]
"""A check that needs what lies on a higher floor: returns one sentence for each problem."""


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    folder = resources.files("kd_ray") / "recipes"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def recipe_text(source: str) -> tuple[str, str]:
    """The place and the TOML text of a recipe given as a path or as a shipped recipe's name.

    Raises:
        ConfigError: neither a file nor a shipped recipe.
    """
    path = to_path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            if not path.is_file():  # a pipe would be waited for
                raise FileNotFoundError("there is no such file")
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: a recipe must be a readable text file ({error})") from error
    if source not in recipe_names():
        raise ConfigError(
            f"{source}: a recipe is a .toml file or a shipped name; "
            f"{suggestion(source, recipe_names())}"
        )
    file = resources.files("kd_ray") / "recipes" / f"{source}.toml"
    return f"recipe {source}", file.read_text(encoding="utf-8")


def load_recipe(
    source: str | Path, overrides: Sequence[str] = (), rules: Iterable[Rule] = ()
) -> Recipe:
    """Reads a recipe, applies `key.path=value` overrides in order, and checks everything.

    Where it names own code, `code` becomes the absolute folder of that.

    Args:
        source: path of a TOML file, or the name of a shipped recipe.
        overrides: values are TOML; a bare word is a string.
        rules: checks by the floors that know more than the schema.

    Raises:
        ConfigError: one message with every problem found, a line each.
    """
    place, text = recipe_text(str(source))
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of integers of 5,000 digits
        raise ConfigError(f"{place}: must be TOML, but {error}") from error
    for override in overrides:
        apply_override(table, override)
    recipe = parse_recipe(table, place)
    if recipe.own_code:
        code = Path(place).absolute().parent / (recipe.code or "")
        recipe = recipe.model_copy(update={"code": str(code)})
    return _ruled(recipe, place, rules)


DEEPEST, MOST, LONGEST = 16, 10_000, 4_000
"""Tables in tables; values, and characters of a text: far more than a recipe means."""
LARGEST: dict[type, float] = {int: 1e12, float: 1e36}
"""Sizes of numbers; a float is one of 32 bits sooner or later."""


def _excesses(table: dict[str, Any]) -> Iterator[str]:
    """What would break whatever reads it later by its mere size, one sentence each."""
    level, values = list(table.items()), 0
    for _ in range(DEEPEST):
        values += len(level)
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if len(place) > LONGEST or (isinstance(value, str) and len(value) > LONGEST):
                yield f"{place[:60]}: keys and texts must have at most {LONGEST} characters"
            elif (most := LARGEST.get(type(value))) and most < abs(value) < math.inf:
                yield f"{place}: a number must be within ±{most:g}, but is not; lower it"
            elif isinstance(value, dict | list):
                inner = value.items() if isinstance(value, dict) else enumerate(value)
                below += [(f"{place}.{key}", each) for key, each in inner]
        level = below
    if level or values > MOST:
        yield f"must have at most {MOST} values, nested at most {DEEPEST} deep; shorten it"


def parse_recipe(table: dict[str, Any], place: str, rules: Iterable[Rule] = ()) -> Recipe:
    """A `Recipe` from a plain table; see `load_recipe` for the errors."""
    if excesses := list(_excesses(table)):
        raise ConfigError(_listed(place, excesses[:10]))
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        raise ConfigError(_listed(place, value_problems(error, "", _keys_at))) from None
    return _ruled(recipe, place, rules)


def _ruled(recipe: Recipe, place: str, rules: Iterable[Rule]) -> Recipe:
    if problems := [problem for rule in rules for problem in rule(recipe)]:
        raise ConfigError(_listed(place, problems))
    return recipe


def apply_override(table: dict[str, Any], override: str) -> None:
    """Sets one `key.path=value` in a nested table, in place.

    >>> table = {"objective": {"temperature": 4.0}}
    >>> apply_override(table, "objective.temperature=8")
    >>> apply_override(table, "data.name=mnist")
    >>> table
    {'objective': {'temperature': 8}, 'data': {'name': 'mnist'}}

    Keys are TOML's too: a dot in quotes is no step down, as in `sweep.space."train.lr"={...}`.

    Raises:
        ConfigError: no `=` in it, or a part of the path is no table.
    """
    path, equals, text = override.partition("=")
    keys = _keys_of(path)
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: must be key=value, such as train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    for depth, key in enumerate(keys[:-1], start=1):
        inner = table.setdefault(key, {})
        if isinstance(inner, str):  # a bare name such as schedule = "cosine" grows options
            inner = table[key] = {"name": inner}
        if not isinstance(inner, dict):
            where = ".".join(keys[:depth])
            raise ConfigError(f"--set {override}: {where} is a value, not a table; set it whole")
        table = inner
    table[keys[-1]] = value


def _keys_of(path: str) -> list[str]:
    try:
        inner: Any = tomllib.loads(f"{path} = 0")
    except (ValueError, RecursionError):
        return [key.strip() for key in path.split(".")]
    keys = []
    while isinstance(inner, dict) and len(inner) == 1:
        ((key, inner),) = inner.items()
        keys.append(key)
    return keys or [path]


def _listed(place: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{place}: {problems[0]}"
    return f"{place}: {len(problems)} problems\n" + "\n".join(f"  {p}" for p in problems)


def _keys_at(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(part)
        inner = None if field is None else _model_in(field.annotation)
        if field is None or inner is None:
            return []
        if typing.get_origin(field.annotation) is dict:
            next(parts, None)  # the user's own name, such as a layer's or a searched key's
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel | Named):
            return candidate
    return None
