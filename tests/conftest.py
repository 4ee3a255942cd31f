import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# A shared machine may stall for longer than any deadline; examples are few and fast anyway.
settings.register_profile("kd-ray", deadline=None)
settings.load_profile("kd-ray")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of float sums depends on the number of threads, so tests fix it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
