"""From a recipe and options to the manifest of any kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.render.kuberay import kuberay
from cluster.render.options import KINDS, NodesOptions, WorkloadOptions, check_kind, checked
from cluster.render.shape import Shape, shape_of
from cluster.render.slurm import slurm
from cluster.render.vm import vm
from cluster.render.workload import Workload, workload_of
from kd_ray.catalog import pick

WRITERS: Mapping[str, Callable[[Workload, Shape, Any], str]] = {
    "kuberay": kuberay,
    "slurm": slurm,
    "vm": vm,
}


def render(kind: str, recipe: str, overrides: Sequence[str] = (), **given: Any) -> str:
    """The manifest of a cluster that runs a recipe.

    Args:
        kind: kuberay, slurm or vm.
        recipe: path of a TOML file, or the name of a shipped recipe.
        overrides: `key.path=value`, applied in order.
        given: options by the names of their fields, see `options`.

    Raises:
        ConfigError: the recipe or an option breaks a rule.
    """
    write = pick("kind", WRITERS, kind)
    check_kind(kind, given)
    options = checked(KINDS[kind], given)
    workload, resources = workload_of(recipe, overrides, checked(WorkloadOptions, given))
    return write(workload, shape_of(resources, checked(NodesOptions, given)), options)
