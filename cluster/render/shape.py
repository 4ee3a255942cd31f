"""From `[resources]` to nodes: how many, of how many CPUs and GPUs, and how far they may grow.

A node is what Ray calls one: a pod, a task of a Slurm job or a machine. All nodes that compute are
alike. What a node is made of, and where it stands, is for the manifests.
"""

import math
from dataclasses import dataclass

from cluster.render.options import NodesOptions
from kd_ray.config import Resources
from kd_ray.errors import ConfigError
from kd_ray.on_ray.placement import Node, sharing

AUTO_CPUS = 4
"""CPUs that a manifest asks for where a recipe says "auto": it cannot look at the machine."""


@dataclass(frozen=True)
class Shape:
    """Nodes that compute: from `nodes` to `max_nodes`, and what each of them has.

    Without `memory_gib` they have what the launcher gives; `spread` workers stand apart.
    """

    nodes: int
    max_nodes: int
    cpus: int
    gpus: int
    memory_gib: int | None = None
    spread: bool = False

    @property
    def grows(self) -> bool:
        """Whether nodes may be added while a job runs."""
        return self.max_nodes > self.nodes


def shape_of(resources: Resources, options: NodesOptions) -> Shape:
    """The nodes that hold the workers of `resources`.

    By default a node has the GPUs of one worker, and CPUs for every worker that its GPUs hold;
    `gpus_per_worker = "auto"` is one, or none if nodes have none.

    >>> shape_of(Resources(workers=6, cpus_per_worker=3), NodesOptions(gpus_per_node=4))
    Shape(nodes=2, max_nodes=2, cpus=12, gpus=4, memory_gib=None, spread=False)

    Raises:
        ConfigError: the workers do not fit, with the arithmetic.
    """
    fewest, most = resources.elastic or (resources.workers, resources.workers)
    each = _gpus_each(resources, options.gpus_per_node)
    gpus = math.ceil(each) if options.gpus_per_node is None else options.gpus_per_node
    auto = resources.cpus_per_worker == "auto"
    cpus_each = AUTO_CPUS if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    if options.cpus_per_node is None:
        # A sweep gives each GPU a trial, even if one training has fewer workers than there are.
        together = max(min(gpus * sharing(each), most), gpus) if each else 1
        # The least is for Ray's own processes, which get nothing of their own.
        cpus = max(cpus_each * together, AUTO_CPUS)
    else:
        cpus = options.cpus_per_node
    held = Node(cpus, gpus).holds(1 if auto else cpus_each, each)
    if not held:
        raise ConfigError(
            f"resources.cpus_per_worker: {cpus_each} CPUs must fit a node, but --cpus-per-node is "
            f"{cpus}; raise it, or use fewer CPUs for a worker"
        )
    # Without GPUs, "auto" means that a worker takes all the CPUs of its node.
    usual = 1 if auto and not each else held
    least_nodes = options.nodes or math.ceil(fewest / usual)
    if least_nodes * held < fewest:
        raise ConfigError(
            f"--nodes: {fewest} workers must fit, but {least_nodes} nodes of {cpus} CPUs and "
            f"{gpus} GPUs hold {least_nodes * held}; use {math.ceil(fewest / held)} nodes or more"
        )
    most_nodes = options.max_nodes or max(least_nodes, math.ceil(most / usual))
    if most_nodes < least_nodes:
        raise ConfigError(
            f"--max-nodes: must be at least the {least_nodes} nodes to start with, but got "
            f"{most_nodes}"
        )
    return Shape(
        nodes=least_nodes,
        max_nodes=most_nodes,
        cpus=cpus,
        gpus=gpus,
        memory_gib=options.memory_per_node,
        spread=resources.placement == "spread",
    )


def _gpus_each(resources: Resources, gpus_per_node: int | None) -> float:
    """GPUs of a worker, which must fit a node."""
    if resources.gpus_per_worker == "auto":
        return 0 if gpus_per_node == 0 else 1
    each = resources.gpus_per_worker
    if gpus_per_node and not each:
        raise ConfigError(
            f"--gpus-per-node: must be 0 where resources.gpus_per_worker is 0, but got "
            f"{gpus_per_node}; leave it out, or give workers GPUs"
        )
    if gpus_per_node is not None and each > gpus_per_node:
        raise ConfigError(
            f"resources.gpus_per_worker: {each:g} GPUs must fit a node, but --gpus-per-node is "
            f"{gpus_per_node}; raise it, or set resources.gpus_per_worker=0 for a run on CPUs"
        )
    return each
