from collections.abc import Iterator

import pytest

from kd_ray.training.saved_model import full_float32


@pytest.fixture(autouse=True)
def as_exact_as_the_cpu() -> Iterator[None]:
    with full_float32():
        yield
