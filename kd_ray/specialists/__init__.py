"""Generalist and specialists, Hinton et al. 2015, section 5 (floor 4).

Which classes are confused with each other (`groups`), how a specialist learns to tell some of
them apart (`training`), what generalist and specialists believe together (`combine`), and what that
is worth (`figures`). Tensors in, tensors out: run folders are for a higher floor to know.
"""

from kd_ray.specialists.combine import (
    Beliefs,
    Combined,
    active_specialists,
    combine,
    gather_beliefs,
    joint_cross_entropy,
    membership,
)
from kd_ray.specialists.figures import by_coverage, confusion, coverage, gain_kept
from kd_ray.specialists.groups import ClassGroups, check_rows, covariance, find_groups
from kd_ray.specialists.training import (
    SpecialFeed,
    new_specialist,
    special_feed,
    specialize,
    training_feed,
)

__all__ = [
    "Beliefs",
    "ClassGroups",
    "Combined",
    "SpecialFeed",
    "active_specialists",
    "by_coverage",
    "check_rows",
    "combine",
    "confusion",
    "covariance",
    "coverage",
    "find_groups",
    "gain_kept",
    "gather_beliefs",
    "joint_cross_entropy",
    "membership",
    "new_specialist",
    "special_feed",
    "specialize",
    "training_feed",
]
