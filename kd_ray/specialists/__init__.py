"""Generalist and specialists, Hinton et al. 2015, section 5.

Which classes are confused with each other, and what specialists for them are worth (`groups`), how
a specialist learns to tell some apart (`training`), and what generalist and specialists believe
together (`combine`). Tensors in, tensors out: run folders are for a higher floor to know.
"""

from kd_ray.specialists.combine import combine, gather_beliefs
from kd_ray.specialists.groups import (
    ClassGroups,
    by_coverage,
    check_classes,
    check_rows,
    confusion,
    coverage,
    find_groups,
    gain_kept,
)
from kd_ray.specialists.training import new_specialist, special_feed, specialize, training_feed
