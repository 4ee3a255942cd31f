"""What a manifest runs: a kd-ray command on a recipe that travels inside the manifest.

A recipe travels as text, data never does. Text from outside goes into scripts as quoted words only,
and what could be a credential is refused: manifests are kept, mailed and put into repositories.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version

from kd_ray.catalog import pick
from kd_ray.config.read import recipe_text
from kd_ray.config.schema import Resources
from kd_ray.errors import ConfigError
from kd_ray.pipeline import open_recipe

COMMANDS = {
    "run": ("run",),
    "tune run": ("tune", "run"),
    "exercises": ("exercises",),
    "views": ("views",),
    "teach": ("teach",),
    "label": ("label",),
    "distill": ("distill",),
}
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
USER_IN_URL = re.compile(r"://[^/\s\"'@]*@")
# Outside of a job kd-ray would start a Ray of its own, on this node alone.
IS_A_JOB = ': "${RAY_ADDRESS:?is set by Ray; submit this script as a Ray Job}"'
GIT_USER = re.compile(r"^git\+ssh://git@")


@dataclass(frozen=True)
class Workload:
    """A kd-ray command for a cluster.

    Attributes:
        name: of the recipe, and so of the run folder.
        recipe: its TOML text, as the user wrote it.
        words: the command without its options, such as `("tune", "run")`.
        overrides: `key=value`, one for each --set.
        runs: storage that all nodes reach, a path or a URL; None for what the kind usually has.
        data: what nodes find in KD_RAY_DATA.
        package: what pip installs on nodes; None if they have kd-ray.
    """

    name: str
    recipe: str
    words: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    runs: str | None = None
    data: str | None = None
    package: str | None = None

    def command(self, recipe: str, runs: str) -> list[str]:
        """The command of a Ray Job, where the recipe is at `recipe`; Ray tells it the address."""
        sets = [word for override in self.overrides for word in ("--set", override)]
        return ["kd-ray", *self.words, recipe, "--runs", runs, *sets]


def workload_of(
    source: str,
    overrides: Sequence[str] = (),
    *,
    command: str = "run",
    runs: str | None = None,
    data: str | None = None,
    package: str | None = None,
) -> tuple[Workload, Resources]:
    """Checks a recipe and the options that every kind of manifest takes.

    Raises:
        ConfigError: the recipe or an option breaks a rule.
    """
    words = pick("command", COMMANDS, " ".join(command.split()))
    recipe = open_recipe(source, list(overrides))
    if words[0] == "tune" and recipe.sweep is None:
        raise ConfigError(
            f"{source}: --command 'tune run' needs a [sweep] table, but the recipe has none; add "
            "one, or leave --command out"
        )
    _, text = recipe_text(source)
    place = _line_with(USER_IN_URL, text)
    if place:
        raise ConfigError(
            f"{source}: a recipe in a manifest must hold no credentials, but line {place} has a "
            "URL with a user; let the nodes' environment or a secret give them"
        )
    given = [("--runs", runs), ("--data", data), ("--package", package)]
    for option, value in [*given, *(("--set", override) for override in overrides)]:
        if value is not None:
            public(option, value)
    job = Workload(
        name=recipe.name,
        recipe=text if text.endswith("\n") else text + "\n",
        words=words,
        overrides=tuple(overrides),
        runs=runs,
        data=data,
        package=package,
    )
    return job, recipe.resources


def _line_with(pattern: re.Pattern[str], text: str) -> int | None:
    lines = text.splitlines()
    return next((n for n, line in enumerate(lines, start=1) if pattern.search(line)), None)


def one_line(option: str, value: str) -> str:
    """`value`, which goes into a script or a comment: one line that can be printed, not empty."""
    if not value or not value.isprintable():
        raise ConfigError(f"{option}: must be one line of printable text, but got {value!r}")
    return value


def public(option: str, value: str) -> str:
    """`value`, a path, URL or package, if nothing in it looks like a credential."""
    one_line(option, value)
    secret = USER_IN_URL.search(value) and not GIT_USER.match(value)
    if secret or ("://" in value and "?" in value):
        shown = USER_IN_URL.sub("://...@", value.partition("?")[0])
        raise ConfigError(
            f"{option}: must hold no credentials, neither a user nor a query, but got {shown}; "
            "let the nodes' environment or a secret give them"
        )
    return value


def is_url(storage: str) -> bool:
    """Whether runs are kept in an object store, else in a folder."""
    return URL.match(storage) is not None


def shared_folders(job: Workload, runs: str, mount: str) -> list[str]:
    """Folders of runs and data that nodes must share; none if both are in object stores.

    Raises:
        ConfigError: one of them does not lie below `mount`.
    """
    if not public("--mount", mount).startswith("/"):
        raise ConfigError(f"--mount: must be an absolute path, but got {mount!r}")
    found = []
    for option, path in (("--runs", runs), ("--data", job.data)):
        if path is None or is_url(path):
            continue
        if not path.startswith(f"{mount.rstrip('/')}/") or ".." in path.split("/"):
            raise ConfigError(
                f"{option}: must be a URL or lie on the shared storage, below {mount}, but got "
                f"{path}; choose another path, or another --mount"
            )
        found.append(path)
    return found


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


def script(job: Workload, recipe: str, runs: str, before: Sequence[str] = ()) -> str:
    """A bash script to be submitted as a Ray Job; `before` are commands that go first.

    Manifests start it by its constant path: what Ray's job client does to quotes on the way is then
    nobody's concern.
    """
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", IS_A_JOB, *before]
    return "\n".join([*lines, f"exec {shlex.join(job.command(recipe, runs))}", ""])


def ray_version() -> str:
    """The version of the Ray that is installed here, which every node must have."""
    return version("ray")


def kd_ray_version() -> str:
    """This kd-ray's version."""
    try:
        return version("kd-ray")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def default_image(job: Workload, gpus: int) -> str:
    """The image that is meant where none is named.

    Ray's own if kd-ray is installed into it, else one that the user has built of kd-ray.
    """
    if job.package is None:
        return f"kd-ray:{kd_ray_version()}"
    return f"rayproject/ray:{ray_version()}-py312{'-gpu' if gpus else ''}"
