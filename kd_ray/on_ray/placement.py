"""How workers and trials are shared out over a cluster's nodes, each of which sees the run folder.

No torch is imported here: a node that is asked answers at once.
"""

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd_ray.config import Resources
from kd_ray.errors import ClusterError, StorageError
from kd_ray.files import is_stored, to_path
from kd_ray.on_ray.head import living_nodes

ASKED_S = 10.0
"""For the nodes to answer; one that does not is asked again by its worker."""


@dataclass(frozen=True)
class Placement:
    """What each of the workers of one training gets; a fraction of a GPU is shared with others."""

    workers: int
    cpus: int
    gpus: float

    @property
    def asked(self) -> dict[str, float]:
        """The same as Ray calls it."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs of one machine of a cluster."""

    cpus: int
    gpus: int = 0

    def holds(self, cpus: int, gpus: float) -> int:
        """How many workers that get so much each fit on it; a worker's GPU is never two halves."""
        by_cpus = self.cpus // cpus
        return min(by_cpus, self.gpus * sharing(gpus)) if gpus else by_cpus


def sharing(gpus: float) -> int:
    """How many workers that get this fraction each share one GPU.

    >>> sharing(0.3), sharing(1)
    (3, 1)
    """
    return math.floor(1 / gpus + 1e-9)


def cluster_nodes() -> list[Node]:
    """The living nodes of the connected cluster; see `check_head` for errors."""
    alive = [node["Resources"] for node in living_nodes()]
    return [Node(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in alive]


def trial_slots(resources: Resources) -> tuple[Placement, int]:
    """What each worker of a trial gets, and how many trials the connected cluster holds at once.

    `cpus_per_worker = "auto"` is 1 here: trials in parallel use the CPUs better than one trial on
    all of them.

    Raises:
        ClusterError: not even one fits, with the arithmetic.
    """
    if resources.cpus_per_worker == "auto":
        resources = resources.model_copy(update={"cpus_per_worker": 1})
    nodes = cluster_nodes()
    placement = share_out(resources, nodes)
    return placement, _fitting(placement, nodes)


def _fitting(placement: Placement, nodes: list[Node]) -> int:
    """How many trainings of a placement the nodes hold at once."""
    workers = sum(node.holds(placement.cpus, placement.gpus) for node in nodes)
    return workers // placement.workers


def share_out(resources: Resources, nodes: list[Node]) -> Placement:
    """What each worker of a training gets; an elastic one gets as many workers as fit now.

    Raises:
        ClusterError: the workers do not fit, with the arithmetic.

    >>> share_out(Resources(workers=3), [Node(cpus=4), Node(cpus=2)])
    Placement(workers=3, cpus=2, gpus=0)
    """
    fewest = resources.elastic[0] if resources.elastic else resources.workers
    for workers in range(resources.most_workers, fewest, -1):
        with contextlib.suppress(ClusterError):
            return _share_out(resources, workers, nodes)
    return _share_out(resources, fewest, nodes)


def share_parallel(
    resources: Resources, trainings: int, nodes: list[Node]
) -> tuple[Placement, int]:
    """What each worker of a training gets, and how many trainings run in parallel.

    GPUs are shared out to as many trainings as they are enough for. CPUs are not where a worker
    gets them all (`cpus_per_worker = "auto"`): then a training has the threads that it has alone,
    and so ends with the same bits.

    >>> share_parallel(Resources(), 8, [Node(cpus=8, gpus=4)])
    (Placement(workers=1, cpus=2, gpus=1), 4)
    >>> share_parallel(Resources(), 8, [Node(cpus=8), Node(cpus=8)])
    (Placement(workers=1, cpus=8, gpus=0), 2)
    """
    placement = share_out(resources, nodes)
    if resources.elastic:
        return placement, 1
    if placement.gpus and resources.cpus_per_worker == "auto":
        for parallel in range(trainings, 1, -1):
            several = resources.model_copy(update={"workers": parallel * resources.workers})
            with contextlib.suppress(ClusterError):
                shared = _share_out(several, several.workers, nodes)
                if shared.gpus == placement.gpus:
                    return replace(shared, workers=resources.workers), parallel
    return placement, max(1, min(trainings, _fitting(placement, nodes)))


def _share_out(resources: Resources, workers: int, nodes: list[Node]) -> Placement:
    all_gpus = sum(node.gpus for node in nodes)
    if resources.gpus_per_worker == "auto":
        fewest = resources.elastic[0] if resources.elastic else workers
        gpus_each: float = 1 if all_gpus >= fewest else 0
    else:
        gpus_each = resources.gpus_per_worker
        gpus_each = int(gpus_each) if gpus_each in (0, 1) else gpus_each
    if gpus_each and all_gpus * sharing(gpus_each) < workers:
        raise ClusterError(
            f"resources: {workers} workers with {gpus_each:g} GPU each need "
            f"{math.ceil(workers / sharing(gpus_each))} GPUs, but there are {all_gpus}; "
            "use fewer workers or gpus_per_worker = 0"
        )

    def fitting(cpus: int) -> int:
        return sum(node.holds(cpus, gpus_each) for node in nodes)

    if resources.cpus_per_worker == "auto":
        most = max((node.cpus for node in nodes), default=0)
        enough = [cpus for cpus in range(1, most + 1) if fitting(cpus) >= workers]
        cpus_each = max(enough, default=1)
    else:
        cpus_each = resources.cpus_per_worker
    if fitting(cpus_each) < workers:
        room = fitting(cpus_each)
        raise ClusterError(
            f"resources: {workers} workers with {cpus_each} CPU each need {cpus_each * workers} "
            f"CPUs{' beside their GPUs' if gpus_each else ''}, but there are "
            f"{sum(node.cpus for node in nodes)}; "
            + (f"use --workers {room} or fewer" if room else "lower resources.cpus_per_worker")
        )
    return Placement(workers, cpus_each, gpus_each)


def counted(placement: Placement) -> str:
    """Workers in words.

    >>> counted(Placement(workers=2, cpus=4, gpus=1))
    '2 Ray workers (4 CPU, 1 GPU each)'
    """
    gpus = f", {placement.gpus:g} GPU" if placement.gpus else ""
    each = " each" if placement.workers > 1 else ""
    workers = "1 Ray worker" if placement.workers == 1 else f"{placement.workers} Ray workers"
    return f"{workers} ({placement.cpus} CPU{gpus}{each})"


def on_node(node: str) -> Any:
    """A scheduling strategy: the node of this id, and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def check_nodes(run: Path, probe: Path, placement: Placement) -> None:
    """Refuses a connected cluster of which a node does not see the run folder.

    Only nodes that have room for a worker are asked; the processes that answer are idle afterwards
    and become workers, so that asking costs next to nothing.

    Args:
        run: the run folder.
        probe: a folder in it that this process has just made.
        placement: of a worker.

    Raises:
        StorageError: naming the node.
    """
    import ray

    if is_stored(run):
        return
    here = ray.get_runtime_context().get_node_id()
    asked = [
        ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node["NodeID"]))(
            check_here
        ).remote(str(run), str(probe))
        for node in living_nodes()
        if node["NodeID"] != here
        if all(node["Resources"].get(name, 0) >= n for name, n in placement.asked.items())
    ]
    if not asked:
        return
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ASKED_S)
    for answer in answered:
        with contextlib.suppress(ray.exceptions.RayError):  # a node that dies is not blind
            problem = ray.get(answer)
            if problem is not None:
                raise problem


def check_here(run: str, probe: str) -> StorageError | None:
    """What is wrong if this process does not see the `probe` that its driver made in the `run`."""
    if is_stored(to_path(run)) or Path(probe).is_dir():
        return None
    import ray.util

    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return StorageError(
        f"{run}: every node must see the run folder, but {node} does not; put it with --runs on "
        "storage that all nodes mount, or in an object store"
    )
