"""Which commands run on a cluster, as a job that is submitted or from a manifest."""

from collections.abc import Mapping
from typing import NamedTuple


class ClusterCommand(NamedTuple):
    """A command that trains, and so runs on a cluster.

    Without `table` in its recipe it has nothing to do; one that takes no recipe file says what to
    do `instead` of making a manifest.
    """

    table: str | None = None
    instead: str | None = None


SUBMIT = "start a cluster and submit the command with `kd-ray cluster submit`"
COMMANDS: Mapping[str, ClusterCommand] = {
    "quickstart": ClusterCommand(instead="render `run` for the recipe quickstart"),
    "run": ClusterCommand(),
    "teach": ClusterCommand(),
    "label": ClusterCommand(),
    "distill": ClusterCommand(),
    "specialize": ClusterCommand(table="specialists"),
    "exercises": ClusterCommand(),
    "views": ClusterCommand(),
    "reproduce": ClusterCommand(instead=SUBMIT),
    "tune run": ClusterCommand(table="sweep"),
    "tune resume": ClusterCommand(instead=SUBMIT),
    "tune retrain": ClusterCommand(instead=SUBMIT),
}
RENDERED = [name for name, command in COMMANDS.items() if command.instead is None]
"""Those of which manifests are made: they take a recipe, which travels inside."""
