"""Generalist and specialists, Hinton et al. 2015, section 5.

Which classes are confused with each other (`groups`), how a specialist learns to tell some of
them apart (`training`), what generalist and specialists believe together (`combine`), and what that
is worth (`figures`). Tensors in, tensors out: run folders are for a higher floor to know.
"""

from kd_ray.specialists.combine import combine, gather_beliefs
from kd_ray.specialists.figures import by_coverage, confusion, coverage, gain_kept
from kd_ray.specialists.groups import ClassGroups, check_rows, find_groups
from kd_ray.specialists.training import new_specialist, special_feed, specialize, training_feed

__all__ = [
    "ClassGroups",
    "by_coverage",
    "check_rows",
    "combine",
    "confusion",
    "coverage",
    "find_groups",
    "gain_kept",
    "gather_beliefs",
    "new_specialist",
    "special_feed",
    "specialize",
    "training_feed",
]
