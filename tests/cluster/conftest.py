"""A real cluster for tests: separate Ray processes, ended by their own tags."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import kd_ray
from tiny_cluster import TINY

from cluster import local
from cluster.local import LocalCluster


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home of the test's own, so that its token is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def two_nodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """Two nodes with a CPU each."""
    # Paths of sockets are short, and those of tests are long.
    name = f"test-{home.parent.stat().st_ino % 10**8}"
    assert kd_ray("cluster", "up", "--nodes", "2", "--cpus", "1", "--name", name).returncode == 0
    found = local.find(name)
    assert found is not None
    yield found
    local.down(name)
