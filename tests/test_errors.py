import pickle

import pytest

from kd_ray import errors
from kd_ray.errors import ConfigError, KdRayError, UnknownNameError

CHILDREN = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__ and value is not KdRayError
]


@pytest.mark.parametrize("kind", [KdRayError, *CHILDREN])
def test_errors_cross_process_borders_with_type_and_message(kind: type[KdRayError]):
    error = kind("train.lr: must be above 0, but got -1; raise it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)


def test_errors_are_all_caught_as_one():
    assert len(CHILDREN) >= 8
    assert all(issubclass(child, KdRayError) for child in CHILDREN)


def test_errors_of_an_unknown_name_are_errors_of_the_recipe():
    assert issubclass(UnknownNameError, ConfigError)
