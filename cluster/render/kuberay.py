"""A KubeRay `RayJob`: a cluster that is made for one job and goes away with it.

The head has no CPUs for Ray to give away: it runs the driver and the autoscaler on a node that is
never a spot node, and the workers do the work.
"""

from cluster.render.manifest import manifest
from cluster.render.options import KubeRayOptions
from cluster.render.shape import Shape
from cluster.render.workload import (
    Workload,
    default_image,
    dns_name,
    script,
    shared_folders,
    versions,
)

LONGEST_NAME = 47  # KubeRay refuses longer ones: it appends to them
FILES = "/etc/kd-ray"
MEMORY_PER_CPU_GIB = 4
LEAST_MEMORY_GIB = 8


def kuberay(workload: Workload, shape: Shape, options: KubeRayOptions) -> str:
    """The manifest: a ConfigMap with recipe and script, and the RayJob.

    Runs are kept in `runs` of the shared storage unless the workload says otherwise.

    Raises:
        ConfigError: an option breaks a rule.
    """
    runs = workload.runs or f"{options.mount}/runs"
    mounted = bool(shared_folders(workload, runs, options.mount))
    by_cpus = max(LEAST_MEMORY_GIB, MEMORY_PER_CPU_GIB * shape.cpus)
    return manifest(
        "kuberay.yaml",
        workload=workload,
        shape=shape,
        options=options,
        **versions(),
        name=dns_name(workload.name, LONGEST_NAME),
        image=options.image or default_image(options.package, shape.gpus),
        package=options.package,
        runs=runs,
        data=workload.data or (f"{options.mount}/data" if mounted else None),
        mounted=mounted,
        memory_gib=shape.memory_gib or by_cpus,
        files=FILES,
        script=script(workload, f"{FILES}/recipe.toml", runs),
    )
