"""What a manifest runs: a kd-ray command on a recipe that travels inside the manifest.

A recipe travels as text, data never does. Text from outside goes into scripts as quoted words only,
and what could be a credential is refused: manifests are kept, mailed and put into repositories.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster.commands import COMMANDS
from cluster.render.options import USER_IN_URL, WorkloadOptions, public
from kd_ray.catalog import pick
from kd_ray.config.read import recipe_text
from kd_ray.config.schema import Resources
from kd_ray.errors import ConfigError
from kd_ray.own_code import source_of
from kd_ray.pipeline import open_recipe
from kd_ray.versions import versions

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Outside of a job kd-ray would start a Ray of its own, on this node alone.
IS_A_JOB = ': "${RAY_ADDRESS:?is set by Ray; submit this script as a Ray Job}"'


@dataclass(frozen=True)
class Workload:
    """A kd-ray command for a cluster, such as `("tune", "run")`, and its recipe's TOML text.

    Its name is the recipe's; `runs` is storage that all nodes reach, a path or a URL (None for what
    the kind usually has), and `data` what they find in KD_RAY_DATA.
    """

    name: str
    recipe: str
    words: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    runs: str | None = None
    data: str | None = None

    def command(self, recipe: str, runs: str) -> list[str]:
        """The command of a Ray Job, where the recipe is at `recipe`; Ray tells it the address."""
        return ["kd-ray", *self.words, recipe, "--runs", runs, *self.sets()]

    def sets(self) -> list[str]:
        """The overrides as they are typed."""
        return [word for override in self.overrides for word in ("--set", override)]


def workload_of(
    source: str, overrides: Sequence[str], options: WorkloadOptions
) -> tuple[Workload, Resources]:
    """Checks a recipe and what is to be done with it.

    Raises:
        ConfigError: the recipe or an option breaks a rule.
    """
    name = " ".join(options.command.split())
    command = pick("command", COMMANDS, name)
    if command.instead is not None:
        raise ConfigError(
            f"--command {name}: a manifest needs a command that takes a recipe file, but this one "
            f"takes none; {command.instead}"
        )
    recipe = open_recipe(source, list(overrides))
    home = Path(recipe.code) if recipe.code else None
    beside = filter(None, (source_of(name, home) for name in sorted(recipe.own_code)))
    if (source_file := next(beside, None)) is not None:
        raise ConfigError(
            f"{source}: own code beside a recipe does not travel with a manifest, but "
            f"{source_file} is named; install it in the image, or use kd-ray cluster submit, which "
            "sends it along"
        )
    if command.table is not None and getattr(recipe, command.table) is None:
        raise ConfigError(
            f"{source}: --command {name!r} needs a [{command.table}] table, but the recipe has "
            "none; add one, or leave --command out"
        )
    _, text = recipe_text(source)
    lines = enumerate(text.splitlines(), start=1)
    if number := next((n for n, line in lines if USER_IN_URL.search(line)), 0):
        raise ConfigError(
            f"{source}: a recipe in a manifest must hold no credentials, but line {number} has a "
            "URL with a user; let the nodes' environment or a secret give them"
        )
    for override in overrides:
        try:
            public(override)
        except ValueError as error:
            raise ConfigError(f"--set: {error}") from None
    text = text if text.endswith("\n") else f"{text}\n"
    words = tuple(name.split())
    workload = Workload(recipe.name, text, words, tuple(overrides), options.runs, options.data)
    return workload, recipe.resources


def is_url(storage: str) -> bool:
    """Whether runs are kept in an object store, else in a folder."""
    return URL.match(storage) is not None


def shared_folders(workload: Workload, runs: str, mount: str) -> list[str]:
    """Folders of runs and data that nodes must share; none if both are in object stores.

    Raises:
        ConfigError: one of them does not lie below `mount`.
    """
    folders = []
    for option, path in (("--runs", runs), ("--data", workload.data)):
        if path is None or is_url(path):
            continue
        if not path.startswith(f"{mount.rstrip('/')}/") or ".." in path.split("/"):
            raise ConfigError(
                f"{option}: must be a URL or lie on the shared storage, below {mount}, but got "
                f"{path}; choose another path, or another --mount"
            )
        folders.append(path)
    return folders


def dns_name(name: str, longest: int = 40) -> str:
    """`name` as Kubernetes and clouds take it: small letters, digits and dashes, a letter first.

    A name that has to change gets a few digits of its hash, so that two names never become one.

    >>> dns_name("mnist-quick"), dns_name("W2_A1")
    ('mnist-quick', 'w2-a1-a01819')
    """
    if len(name) <= longest and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"kd-{plain}"
    digits = sha256(name.encode()).hexdigest()[:6]
    return f"{plain[: longest - 7].rstrip('-')}-{digits}"


def script(workload: Workload, recipe: str, runs: str, before: Sequence[str] = ()) -> str:
    """A bash script to be submitted as a Ray Job; `before` are commands that go first.

    Manifests start it by its constant path: what Ray's job client does to quotes on the way is then
    nobody's concern.
    """
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", IS_A_JOB, *before]
    return "\n".join([*lines, f"exec {shlex.join(workload.command(recipe, runs))}", ""])


def default_image(package: str | None, gpus: int) -> str:
    """Ray's own image if kd-ray is installed into it, else one that the user built of kd-ray."""
    if package is None:
        return f"kd-ray:{versions()['kd-ray']}"
    return f"rayproject/ray:{versions()['ray']}-py312{'-gpu' if gpus else ''}"
