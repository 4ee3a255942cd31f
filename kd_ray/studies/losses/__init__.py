"""The loss, or T and c? Each soft term of the catalogue with the same search, the plain one too.

Papers compare their losses with Hinton's at one temperature and weight. Here every loss, and plain
labels as well, is trained once as its paper has it, and once with what a search of as many trials
has chosen by the validation rows.
"""

from kd_ray.studies.losses.experiments import losses
from kd_ray.studies.losses.work import LOSSES, LOSSES_QUICK, PUBLISHED, LossScale

__all__ = ["LOSSES", "LOSSES_QUICK", "PUBLISHED", "LossScale", "losses"]
