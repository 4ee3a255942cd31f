"""Catalogues: every name in a recipe is a key of a dict literal, and a call is checked first.

A catalogue is a plain mapping from a name to a function. The function's signature is the schema of
the table that names it in a recipe, so an option is declared once, where it is used.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from kd_ray.errors import UnknownNameError, shown

T = TypeVar("T")
STRICT = ConfigDict(
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    protected_namespaces=(),
    arbitrary_types_allowed=True,
)
# Where a value may be one of several types, pydantic adds each type to the place of its problem.
TYPE_IN_PLACE = re.compile(r"bool|int|float|str|(constrained|function|list|literal|tuple)[-\[].*")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: a near match if there is one, and all known names.

    >>> suggestion("resnet21", ["mlp", "resnet20"])
    "did you mean 'resnet20'? known: mlp, resnet20"
    """
    names = sorted(known)
    if not names:
        return "there are none here; leave it out"
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}known: {', '.join(names)}"


def pick(kind: str, catalogue: Mapping[str, T], name: str) -> T:
    """The entry called `name`.

    Raises:
        UnknownNameError: no such entry; the message offers the nearest name.
    """
    if name in catalogue:
        return catalogue[name]
    raise UnknownNameError(f"unknown {kind} {shown(name)}; {suggestion(name, catalogue)}")


def call_problems(
    where: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    given: Iterable[str] = (),
) -> list[str]:
    """What is wrong with calling `function(**options)`, one sentence each; empty when nothing is.

    Args:
        where: prefix of every sentence, the dotted place in the recipe.
        function: a catalogue entry with annotated keyword parameters; one of a user's own may lack
            annotations, or have such as cannot be checked.
        options: the table from the recipe.
        given: parameters that the program itself passes; a recipe must not name them.
    """
    schema = _schema(function, set(given))
    parameters = schema.model_fields
    try:
        schema.model_validate(dict(options))
    except ValidationError as error:
        return value_problems(error, where, lambda path: [] if path else list(parameters))
    return []


def _schema(function: Callable[..., Any], hidden: set[str]) -> type[BaseModel]:
    """The options of a function as a table; a user's own may have any, or no, annotations."""
    try:
        found = inspect.signature(function, eval_str=True).parameters
    except NameError:
        found = inspect.signature(function).parameters
    config, parameters = STRICT, {}
    for name, each in found.items():
        if each.kind is each.VAR_KEYWORD:
            config = ConfigDict(**{**STRICT, "extra": "allow"})
        elif name not in hidden and each.kind is not each.VAR_POSITIONAL:
            kind = (
                Any
                if each.annotation is each.empty or isinstance(each.annotation, str)
                else each.annotation
            )
            parameters[name] = (kind, ... if each.default is each.empty else each.default)
    made: type[BaseModel] = create_model("Options", __config__=config, **parameters)  # type: ignore[call-overload]
    return made


def value_problems(
    error: ValidationError, where: str, keys_at: Callable[[Sequence[str]], Iterable[str]]
) -> list[str]:
    """What pydantic finds wrong with a table, one sentence each: place, rule, value.

    Args:
        error: pydantic's error about the table.
        where: dotted place of the table, empty for a whole recipe.
        keys_at: known keys of the table at a path below this one.
    """
    places: dict[tuple[str, ...], list[ErrorDetails]] = {}
    # A misspelt key comes first: it explains why the right one is missing.
    for detail in sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden"):
        parts = [str(part) for part in detail["loc"]]
        path = tuple(part for part in parts if not TYPE_IN_PLACE.fullmatch(part))
        places.setdefault(path, []).append(detail)
    problems = []
    for path, details in places.items():
        place = ".".join((where, *path) if where else path)
        kind = details[0]["type"]
        if kind == "extra_forbidden":
            rule = f"unknown key; {suggestion(path[-1], keys_at(path[:-1]))}"
        elif kind == "missing":
            rule = "this key is required; add it"
        else:
            rule = _broken_rule(details)
        problems.append(f"{place}: {rule}" if place else rule)
    return problems


def _broken_rule(details: Sequence[ErrorDetails]) -> str:
    """The rule that a value breaks, and the value; `details` has one for each type it may have."""
    # That a value of the right type is too large says more than which types it is not of.
    wrong_type = [d["type"].endswith("_type") or d["type"] == "literal_error" for d in details]
    if not all(wrong_type):
        details = [d for d, wrong in zip(details, wrong_type, strict=True) if not wrong]
    texts = [d["msg"].removeprefix("Value error, ") for d in details]
    texts = [text.partition(" after validation")[0] for text in texts]
    first, *others = dict.fromkeys(text[0].lower() + text[1:] for text in texts)
    rule = " or ".join([first, *(text.removeprefix("input should be ") for text in others)])
    if "got" in rule or details[0]["type"] == "value_error":
        return rule
    value = repr(details[0]["input"])
    return f"{rule}, but got {value if len(value) <= 60 else value[:57] + '...'}"
