"""Everything that touches Ray: sessions, placement, and tasks on Ray Train."""

from kd_ray.on_ray.parallel import perform_parallel
from kd_ray.on_ray.placement import Node, Placement, share_out, trial_slots
from kd_ray.on_ray.relay import check_nodes
from kd_ray.on_ray.session import check_cluster, connected
from kd_ray.on_ray.train import perform_on_ray
