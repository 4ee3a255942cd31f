"""What a user would type here, checked here and rewritten for a cluster."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from typer import Context
from typer.core import TyperCommand, TyperGroup, TyperOption

from cluster.commands import COMMANDS
from kd_ray.catalog import suggestion
from kd_ray.config import Recipe
from kd_ray.errors import ConfigError
from kd_ray.files import to_path

HERE_ALONE = ("address", "local")
"""Options that say where to run, which submitting has said."""


@dataclass(frozen=True)
class Luggage:
    """A command for a cluster, where the recipe is `recipe.toml` if it takes one.

    `run` is the absolute folder or URL of the run that it makes or goes on from.
    """

    command: list[str]
    run: str
    recipe: Recipe | None


def travelling(root: TyperGroup, command: Sequence[str]) -> Luggage:
    """Parses what would follow `kd-ray` as `root` would, and makes its paths absolute.

    Raises:
        ConfigError: no such command, option or recipe, or one that does not run on a cluster.
    """
    names, leaf, rest = _leaf(root, command)
    params = leaf.make_context(f"kd-ray {' '.join(names)}", rest).params
    for name in HERE_ALONE:
        if params.get(name):
            raise ConfigError(
                f"--{name}: says where to run, but a submitted command runs on the cluster that "
                "`kd-ray cluster submit --address` names; leave it out"
            )
    runs = to_path(params.pop("runs", None) or "runs").absolute()
    if "sweep" in params:
        sweep = to_path(params["sweep"]).absolute()
        return Luggage([*names, *_typed(leaf, {**params, "sweep": str(sweep)})], str(sweep), None)
    if names == ["reproduce"]:
        from kd_ray.studies.reproductions import reproduction_of

        made = reproduction_of(params["name"], quick=params["quick"])
        typed = [*names, *_typed(leaf, params), "--runs", str(runs)]
        return Luggage(typed, str(runs / made.name), None)
    if names == ["quickstart"]:
        names, params["recipe"] = ["run"], "quickstart"
    recipe = _recipe(params)
    arguments = [*_typed(leaf, {**params, "recipe": None}), "--runs", str(runs)]
    return Luggage([*names, "recipe.toml", *arguments], str(runs / recipe.name), recipe)


def _leaf(root: TyperGroup, command: Sequence[str]) -> tuple[list[str], TyperCommand, list[str]]:
    """Names of the command, the command, and its arguments."""
    names: list[str] = []
    rest = list(command)
    leaf: Any = root
    while isinstance(leaf, TyperGroup):
        paths = map(str.split, COMMANDS)
        known = {path[len(names)] for path in paths if path[: len(names)] == names}
        if not rest or rest[0] not in known:
            got = rest[0] if rest else "nothing"
            raise ConfigError(
                f"submit {' '.join([*names, got])}: must be a command that trains; "
                f"{suggestion(got, known)}"
            )
        names.append(rest.pop(0))
        leaf = leaf.get_command(Context(leaf), names[-1])
    return names, leaf, rest


def _recipe(params: dict[str, Any]) -> Recipe:
    """The recipe as it is here, with everything that the command sets in it."""
    from kd_ray.pipeline import open_recipe, with_absolute_paths

    sets = list(params.pop("overrides", None) or [])
    for option, key in (("workers", "resources.workers"), ("trials", "sweep.trials")):
        if params.get(option) is not None:
            sets.append(f"{key}={params.pop(option)}")
    recipe = with_absolute_paths(open_recipe(params["recipe"], sets))
    if recipe.data.root is None:
        return recipe
    data = recipe.data.model_copy(update={"root": os.path.abspath(recipe.data.root)})
    return recipe.model_copy(update={"data": data})


def _typed(leaf: TyperCommand, params: dict[str, Any]) -> list[str]:
    """Options and arguments as they would be typed, those left at their defaults left out."""
    words: list[str] = []
    for parameter in leaf.params:
        value = params.get(parameter.name or "")
        if value in (None, False, (), []) or value == parameter.default:
            continue
        if not isinstance(parameter, TyperOption):
            words.insert(0, str(value))
        elif parameter.is_flag:
            words.append(parameter.opts[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [parameter.opts[0], str(one)]
    return words
