import shutil
from pathlib import Path

import pytest
import torch
from tiny_sweep import search, teach

from tuning.outcome import Sweep


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a teacher and a transfer set that sweeps share; never changed."""
    torch.set_num_threads(1)
    return teach(tmp_path_factory.mktemp("base"))


@pytest.fixture
def runs(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "runs"))


@pytest.fixture(scope="session")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Three random trials that nothing interrupted; never changed."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("undisturbed")
    return search(Path(shutil.copytree(base, runs, dirs_exist_ok=True)))
