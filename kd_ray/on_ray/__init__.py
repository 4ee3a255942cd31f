"""Everything that touches Ray: sessions, placement, and tasks on Ray Train.

What needs torch, as tasks do, is imported from its module: asking a cluster something does not.
"""

from kd_ray.on_ray.placement import Node, Placement, check_nodes, share_out, trial_slots
from kd_ray.on_ray.session import check_cluster, connected
