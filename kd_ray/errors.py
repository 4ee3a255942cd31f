"""Errors that a user can do something about; everything else is a bug and keeps its traceback.

A message is one sentence: where, the rule, what was got, what to do. Errors cross process borders
inside Ray, so every child is built from its message alone and pickles by `args`.
"""

from collections.abc import Iterable, Mapping
from typing import Any


class KdRayError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits 2."""


class ConfigError(KdRayError):
    """A recipe, an override or an option breaks a rule."""


class UnknownNameError(ConfigError):
    """A name is not a key of the catalogue it should come from."""


class DataError(KdRayError):
    """A dataset is missing, empty or corrupt."""


class TransferSetError(KdRayError):
    """A transfer set is unfinished, altered, or does not fit the run that reads it."""


class CheckpointError(KdRayError):
    """A checkpoint is unreadable, or was made by another recipe."""


class TrainingError(KdRayError):
    """Training cannot go on: a loss that is not finite, a model that does not take the images."""


class StorageError(KdRayError):
    """A file cannot be written: the disk is full, or the folder is not writable or in use."""


class ClusterError(KdRayError):
    """The machine or cluster cannot give what was asked for."""


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The clause of a message that names the first three keys in which two descriptions differ.

    Args:
        there: key -> value, as recorded in an artefact.
        here: key -> value of the run that wants to use it.

    Returns:
        Both values of each key; an empty text if nothing differs.

    >>> difference({"seed": 0, "views": 1}, {"seed": 0, "views": 4})
    'views is 1 there and 4 here'
    """
    clauses = [
        f"{key} is {shown(there.get(key))} there and {shown(here.get(key))} here"
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    ]
    return ", ".join(clauses[:3]) + (", ..." if len(clauses) > 3 else "")


def numbered(kind: str, values: Iterable[Any]) -> dict[str, Any]:
    """A list for `difference`, whose keys are a kind and a number.

    >>> difference(numbered("class", ["cat", "dog"]), numbered("class", ["cat"]))
    "class 1 is 'dog' there and unset here"
    """
    return {f"{kind} {number}": value for number, value in enumerate(values)}


def shown(value: Any) -> str:
    """A value as a message quotes it, however long it is."""
    text = "unset" if value is None else repr(value)
    return text if len(text) <= 70 else f"{text[:67]}..."  # a quoted sha256 has 66
