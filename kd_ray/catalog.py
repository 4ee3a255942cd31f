"""Names to things: every name in a recipe is a key of a dict literal, and a call is checked first.

A catalogue is a plain mapping from a name to a function. The function's signature is the schema of
the table that names it in a recipe, so an option is declared once, where it is used.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kd_ray.errors import UnknownNameError

T = TypeVar("T")
STRICT = ConfigDict(strict=True)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: a near match if there is one, and all known names.

    >>> suggestion("resnet21", ["mlp", "resnet20"])
    "did you mean 'resnet20'? known: mlp, resnet20"
    """
    names = sorted(known)
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
    raise UnknownNameError(f"unknown {kind} '{name}'; {suggestion(name, catalogue)}")


def call_problems(
    where: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    given: Iterable[str] = (),
) -> list[str]:
    """What is wrong with calling `function(**options)`, one sentence each; empty when nothing is.

    Args:
        where: prefix of every sentence, the dotted place in the recipe.
        function: a catalogue entry with annotated keyword parameters.
        options: the table from the recipe.
        given: parameters that the program itself passes; a recipe must not name them.
    """
    hidden = set(given)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if name not in hidden
    }
    problems = [
        f"{where}.{key}: unknown key; {suggestion(key, parameters)}"
        for key in options
        if key not in parameters
    ]
    for name, parameter in parameters.items():
        if name not in options:
            if parameter.default is inspect.Parameter.empty:
                problems.append(f"{where}.{name}: this key is required")
            continue
        adapter = TypeAdapter(parameter.annotation, config=STRICT)
        try:
            adapter.validate_python(options[name])
        except ValidationError as error:
            for detail in error.errors():
                place = ".".join(str(part) for part in (where, name, *detail["loc"]))
                problems.append(f"{place}: {detail['msg']}, but got {detail['input']!r}")
    return problems
