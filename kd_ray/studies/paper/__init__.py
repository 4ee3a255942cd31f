"""The experiments of Hinton et al. 2015, section 3 and 6, from shared artefacts.

Experiments are data: which students of which run folders, and what the paper measured. Every run
folder is an ordinary one, so every other command works on it.
"""

from kd_ray.studies.paper.experiments import EXPERIMENTS
from kd_ray.studies.paper.parts import SCALES, Scale
from kd_ray.studies.paper.reproduction import reproduction

__all__ = ["EXPERIMENTS", "SCALES", "Scale", "reproduction"]
