"""Everything that touches Ray: sessions, placement, and tasks on Ray Train (floor 6)."""

from kd_ray.on_ray.placement import Node, Placement, place, places, share_out
from kd_ray.on_ray.session import check_cluster, connected
from kd_ray.on_ray.side_by_side import perform_stages
from kd_ray.on_ray.storage import check_nodes
from kd_ray.on_ray.train import perform_on_ray

__all__ = [
    "Node",
    "Placement",
    "check_cluster",
    "check_nodes",
    "connected",
    "perform_on_ray",
    "perform_stages",
    "place",
    "places",
    "share_out",
]
