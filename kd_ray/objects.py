"""Distillation of objects instead of names, for a notebook: networks, datasets, functions."""

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_ray.cli.run import run_with_display
from kd_ray.config import DataOptions, Recipe, parse_recipe
from kd_ray.config.read import apply_override
from kd_ray.datasets.own import read_own
from kd_ray.errors import ConfigError
from kd_ray.files import to_path
from kd_ray.models.weights import state_sha256, write_weights
from kd_ray.own_code import offer
from kd_ray.pipeline import allowed, catalogue_problems, run
from kd_ray.report.summary import Summary
from kd_ray.runs import result_model
from kd_ray.runs.variants import own_variant
from kd_ray.training.saved_model import load_model

Model = nn.Module | Callable[..., nn.Module] | str | Mapping[str, Any]
DATA, GIVEN = "object:data", "given"
"""Folder of the weights of networks that were handed over, below the run's."""


@dataclass(frozen=True)
class Distilled:
    """What `distill` made.

    Attributes:
        student: of the first seed, in evaluation mode on the CPU; from images `(N, C, H, W)` that
            are normalized as the checkpoint says, to logits `(N, K)`.
        summary: every figure, as of `run`.
        folder: the run folder; everything lies there.
    """

    student: nn.Module
    summary: Summary
    folder: Path


def distill(
    teacher: Model,
    student: Model,
    data: Any,
    objective: Callable[..., Any] | str | Mapping[str, Any] = "hinton",
    *,
    name: str = "distilled",
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
) -> Distilled:
    """Distills a teacher into a student, in this process, with progress and a closing table.

    Called again with the same objects it goes on where it was, or says that it is done; with others
    it asks for another name. On a cluster, own code is named by dotted paths in a recipe instead.

    Args:
        teacher: a trained network; or a function or class that makes one, or a recipe's `model`
            table, to be trained first.
        student: as the teacher; a network starts from the weights that it has.
        data: a `Dataset`; `(train, test)`, or a table of these, of ordinary torch datasets of
            (picture or tensor, label); or a recipe's `[data]` table.
        objective: name of a soft term, a function of (z, v, y, T, ...) as in `training.objectives`,
            or a recipe's `[objective]` table, in which `name` may be such a function.
        name: of the run.
        overrides: `key.path=value` for anything else in the recipe, such as "train.epochs=30".
        runs: folder of run folders, or its URL.

    Raises:
        KdRayError: see its children; what was done until then stays, and is resumed.
    """
    home = to_path(runs).absolute() / name
    table: dict[str, Any] = {
        "name": name,
        "data": {"name": data} if isinstance(data, str) else data,
        "teacher": {"model": _model("teacher", teacher, home)},
        "student": {"model": _model("student", student, home)},
        "objective": _objective(objective),
    }
    is_named = isinstance(data, str) or (isinstance(data, Mapping) and "name" in data)
    table["data"] = dict(table["data"]) if is_named else {"name": DATA}
    for override in overrides:
        apply_override(table, override)
    if not is_named:
        table["data"]["name"] = _data(data, table["data"])
    recipe: Recipe = parse_recipe(table, "distill", [allowed, catalogue_problems])
    summary = run_with_display(partial(run, recipe, runs=runs, local=True))
    folder = home / "student" / own_variant(recipe) / f"seed-{recipe.train.seeds[0]}"
    saved = load_model(result_model(folder), torch.device("cpu"))
    return Distilled(saved.model, summary, home)


def _model(role: str, given: Model, home: Path) -> Any:
    """The `model` table of a network, of what makes one, or of a table."""
    if isinstance(given, nn.Module):
        state = given.state_dict()
        mark = _mark(repr(given), state_sha256(state))
        network = copy.deepcopy(given).cpu()
        weights = home / GIVEN / f"{role}-{mark}.safetensors"
        write_weights(weights, state)
        offered = offer(f"{role}_{mark}", lambda: copy.deepcopy(network))
        return {"name": offered, "weights": str(weights)}
    if callable(given):
        return {"name": offer(f"{role}_{_code_mark(given)}", given)}
    return given


def _data(given: Any, table: Mapping[str, Any]) -> str:
    """A name for data, by its content: it is read here, once."""
    options = DataOptions(name=offer("data", lambda: given), image_size=table.get("image_size"))
    read = read_own(options)
    return offer(f"data_{read.fingerprint[:12]}", lambda: read)


def _objective(given: Callable[..., Any] | str | Mapping[str, Any]) -> dict[str, Any]:
    table = dict(given) if isinstance(given, Mapping) else {"name": given}
    if callable(function := table.get("name")):
        table["name"] = offer(f"objective_{_code_mark(function)}", function)
    return table


def _mark(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _code_mark(function: Callable[..., Any], around: frozenset[int] = frozenset()) -> str:
    """What tells a function from another one: its code, and what it refers to.

    That is plain values, and functions and classes of its module, but for those `around` it.
    """
    inner = function.func if isinstance(function, partial) else function
    bound = repr((function.args, function.keywords)) if isinstance(function, partial) else ""
    try:
        text = inspect.getsource(inner)
    except (OSError, TypeError):
        code = getattr(inner, "__code__", None)
        if code is None:
            raise ConfigError(
                f"{inner!r}: must be a function or a class whose code can be read; define it with "
                "def, or name it by a dotted path"
            ) from None
        text = f"{code.co_code!r} {code.co_consts!r} {code.co_names!r}"
    seen = {}
    if inspect.isfunction(inner):
        found = inspect.getclosurevars(inner)
        defaults = {"": inner.__defaults__, "*": tuple((inner.__kwdefaults__ or {}).items())}
        seen = {**found.nonlocals, **found.globals, **defaults}
    plain = {k: v for k, v in sorted(seen.items()) if isinstance(v, int | float | str | tuple)}
    around |= {id(inner)}
    used = [
        _code_mark(value, around)
        for value in seen.values()
        if inspect.isfunction(value) or inspect.isclass(value)
        if value.__module__ == inner.__module__ and id(value) not in around
    ]
    return _mark(text, bound, repr(plain), *used)
