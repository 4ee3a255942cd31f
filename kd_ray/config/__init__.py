"""Recipes: their schema and the strict reader."""

from kd_ray.config.data import ColumnNames, DataOptions, Speakers
from kd_ray.config.model import LIBRARY, InputOptions, ModelOptions
from kd_ray.config.objective import Objective, SoftWeight
from kd_ray.config.quantizer import QuantizerOptions
from kd_ray.config.read import load_recipe, parse_recipe, recipe_names, recipe_text
from kd_ray.config.schema import Recipe, Resources, StudentOptions
from kd_ray.config.sweep import Range, SweepOptions
from kd_ray.config.table import Named
from kd_ray.config.tracking import TrackingOptions
from kd_ray.config.training import (
    Augment,
    SpecialistOptions,
    StudentTrain,
    TeacherOptions,
    TeacherTrain,
    Train,
    TransferSetOptions,
)
