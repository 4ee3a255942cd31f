"""Models: names, options and weights of a recipe to modules from `(N, C, H, W)` to `(N, K)`."""

from kd_ray.models.build import (
    NewModel,
    build_model,
    model_problems,
    new_model,
    parameter_count,
)
from kd_ray.models.checks import placed
from kd_ray.models.columns import columns_of
from kd_ray.models.library import MODELS
from kd_ray.models.mlp import BoundedLinear, bounded_layers, project_
