"""Everything that touches Ray: sessions, placement, and tasks on Ray Train (floor 6)."""

from kd_ray.on_ray.session import Placement, connected, place, places, share_out
from kd_ray.on_ray.train import perform_on_ray

__all__ = ["Placement", "connected", "perform_on_ray", "place", "places", "share_out"]
