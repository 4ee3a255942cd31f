"""Whether every node of a cluster sees the run folder, asked before anything is placed there."""

import contextlib
from pathlib import Path
from typing import Any

from kd_ray.errors import StorageError
from kd_ray.files import is_stored, to_path
from kd_ray.on_ray.placement import Placement

ASKED_S = 10.0
"""For the nodes to answer; one that does not is asked again by its worker."""


def check_nodes(run: Path, probe: Path, placement: Placement) -> None:
    """Refuses a connected cluster of which a node does not see the run folder.

    Only nodes that have room for a worker are asked; the processes that answer are idle afterwards
    and become workers, so that asking costs next to nothing.

    Args:
        run: the run folder.
        probe: a folder in it that this process has just made.
        placement: what a worker gets.

    Raises:
        StorageError: as said, naming the node.
    """
    import ray

    if is_stored(run):
        return
    here = ray.get_runtime_context().get_node_id()
    asked = [
        ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node["NodeID"]))(
            check_here
        ).remote(str(run), str(probe))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] != here
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
    """What is wrong if this process does not see the probe that the driver made in the run folder.

    Args:
        run: the run folder, or its URL.
        probe: a folder in it; of this machine if the run is stored.
    """
    if is_stored(to_path(run)) or Path(probe).is_dir():
        return None
    import ray.util

    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return StorageError(
        f"{run}: every node must see the run folder, but {node} does not; put it with --runs on "
        "storage that all nodes mount, or in an object store"
    )


def on_node(node: str) -> Any:
    """A scheduling strategy: the node of this id, and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
