"""Recipes: their schema and the strict reader (floor 1)."""

from kd_ray.config.read import load_recipe, recipe_names, recipe_text
from kd_ray.config.schema import (
    Augment,
    DataOptions,
    Named,
    Objective,
    Recipe,
    Resources,
    SoftWeight,
    StudentOptions,
    StudentTrain,
    TeacherOptions,
    TeacherTrain,
    Train,
    TransferSetOptions,
)

__all__ = [
    "Augment",
    "DataOptions",
    "Named",
    "Objective",
    "Recipe",
    "Resources",
    "SoftWeight",
    "StudentOptions",
    "StudentTrain",
    "TeacherOptions",
    "TeacherTrain",
    "Train",
    "TransferSetOptions",
    "load_recipe",
    "recipe_names",
    "recipe_text",
]
