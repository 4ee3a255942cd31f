"""From a recipe and options to the manifest of any kind."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.render.manifest import manifest
from cluster.render.options import (
    KINDS,
    KubeRayOptions,
    NodesOptions,
    SlurmOptions,
    WorkloadOptions,
    check_kind,
    checked,
)
from cluster.render.shape import Shape, shape_of
from cluster.render.vm import vm
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    is_url,
    script,
    shared_folders,
    workload_of,
)
from kd_ray.catalog import pick
from kd_ray.errors import ConfigError

LONGEST_NAME = 47  # KubeRay refuses longer ones: it appends to them
FILES = "/etc/kd-ray"
MEMORY_PER_CPU_GIB = 4
LEAST_MEMORY_GIB = 8


def kuberay(workload: Workload, shape: Shape, options: KubeRayOptions) -> str:
    """The manifest: a ConfigMap with recipe and script, and the RayJob.

    Runs are kept in `runs` of the shared storage unless the workload says otherwise.
    """
    runs = workload.runs or f"{options.mount}/runs"
    mounted = bool(shared_folders(workload, runs, options.mount))
    by_cpus = max(LEAST_MEMORY_GIB, MEMORY_PER_CPU_GIB * shape.cpus)
    return manifest(
        "kuberay.yaml",
        workload,
        shape,
        options=options,
        name=dns_name(workload.name, LONGEST_NAME),
        image=options.image or default_image(options.package, shape.gpus),
        runs=runs,
        data=workload.data or (f"{options.mount}/data" if mounted else None),
        mounted=mounted,
        memory_gib=shape.memory_gib or by_cpus,
        files=FILES,
        script=script(workload, f"{FILES}/recipe.toml", runs),
    )


def slurm(workload: Workload, shape: Shape, options: SlurmOptions) -> str:
    """The script; runs are kept in `runs` where it is submitted unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    for option, path in (("--runs", workload.runs), ("--data", workload.data)):
        if path is not None and path.startswith("~"):
            raise ConfigError(f"{option}: must not begin with ~, but got {path}; write it out")
    data = workload.data
    if data and not (is_url(data) or data.startswith("/")):
        raise ConfigError(f"--data: must be an absolute path or a URL, but got {data}")
    end = "END_OF_RECIPE"  # the word that ends a here-document must not be a line of it
    while end in workload.recipe.splitlines():
        end += "_"
    return manifest("slurm.sh", workload, shape, options=options, end=end)


WRITERS: Mapping[str, Callable[..., str]] = {"kuberay": kuberay, "slurm": slurm, "vm": vm}


def render(kind: str, recipe: str, overrides: Sequence[str] = (), **given: Any) -> str:
    """The manifest of a cluster that runs a recipe; `given` are fields of `options`.

    Raises:
        ConfigError: the recipe or an option breaks a rule.
    """
    write = pick("kind", WRITERS, kind)
    check_kind(kind, given)
    options = checked(KINDS[kind], given)
    workload, resources = workload_of(recipe, overrides, checked(WorkloadOptions, given))
    return write(workload, shape_of(resources, checked(NodesOptions, given)), options)
