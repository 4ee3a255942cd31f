"""Manifests of clusters, written from a recipe's `[resources]`: KubeRay, Slurm, virtual machines.

Pure functions from a recipe and options to text. A manifest never holds data or credentials.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.render.kuberay import kuberay
from cluster.render.shape import shape_of
from cluster.render.slurm import slurm
from cluster.render.vm import vm
from cluster.render.workload import workload_of
from kd_ray.catalog import pick
from kd_ray.errors import ConfigError

KINDS: Mapping[str, Callable[..., str]] = {"kuberay": kuberay, "slurm": slurm, "vm": vm}


def render(
    kind: str,
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    command: str = "run",
    runs: str | None = None,
    data: str | None = None,
    package: str | None = None,
    cpus_per_node: int | None = None,
    gpus_per_node: int | None = None,
    memory_per_node: int | None = None,
    nodes: int | None = None,
    max_nodes: int | None = None,
    **options: Any,
) -> str:
    """The manifest of a cluster that runs a recipe.

    Args:
        kind: kuberay, slurm or vm.
        recipe: path of a TOML file, or the name of a shipped recipe.
        overrides: `key.path=value`, applied in order.
        command: run, tune run, exercises, views, teach, label or distill.
        runs: storage that all nodes reach: a path or a URL.
        data: folder of datasets on the nodes.
        package: what pip installs on the nodes; None if they have kd-ray.
        cpus_per_node: see `shape_of`, as for the next four.
        gpus_per_node: 0 for nodes without.
        memory_per_node: GiB; not for machines, which come with theirs.
        nodes: to start with.
        max_nodes: with autoscaling.
        options: those of the kind, by the names of its parameters.

    Raises:
        ConfigError: the recipe or an option breaks a rule.
    """
    renderer = pick("kind", KINDS, kind)
    for name in options:
        kinds = [k for k, other in KINDS.items() if name in inspect.signature(other).parameters]
        if kind not in kinds:
            raise ConfigError(
                f"--{name.replace('_', '-')}: goes with {' and '.join(kinds) or 'nothing'}, but "
                f"got kind {kind}; leave it out"
            )
    job, resources = workload_of(
        recipe, overrides, command=command, runs=runs, data=data, package=package
    )
    shape = shape_of(
        resources,
        cpus_per_node=cpus_per_node,
        gpus_per_node=gpus_per_node,
        memory_per_node=memory_per_node,
        nodes=nodes,
        max_nodes=max_nodes,
    )
    return renderer(job, shape, **options)
