"""A real cluster for tests: separate Ray processes, ended by their own tags."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import kd_ray
from tiny_cluster import TINY, end_at_once, replace_node

from cluster import local
from cluster.local import LocalCluster, node_tag
from cluster.processes import tagged

SOON = {
    # A dead node is missed after two seconds and not after fifteen.
    "RAY_health_check_period_ms": "500",
    # One that is asked to go stays for ten seconds and not for thirty, and its workers know in one.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Workers for whom there is no place are planned anew after ten seconds and not after sixty.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def new_home(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    patch.setenv("HOME", str(folder / "home"))
    patch.delenv("RAY_ADDRESS", raising=False)
    (folder / "home").mkdir()
    return folder / "home"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home of the test's own, so that its token is."""
    return new_home(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of a file's tests, and clusters that lose little time over nodes that go."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SOON.items():
            patch.setenv(name, value)
        yield new_home(tmp_path_factory.mktemp("user"), patch)


@pytest.fixture(scope="module")
def cluster_name(shared_home: Path) -> Iterator[str]:
    """The name of the cluster that the tests of a file share."""
    # Paths of sockets are short, and those of tests are long.
    name = f"test-{shared_home.stat().st_ino % 10**8}"
    yield name
    end_at_once(name)


@pytest.fixture
def two_nodes(cluster_name: str) -> LocalCluster:
    """Two nodes with a CPU each, which count as having a GPU; what an earlier test ended is new."""
    found = local.find(cluster_name)
    if found is None:
        each = ("--cpus", "1", "--gpus", "1")
        assert (
            kd_ray("cluster", "up", "--nodes", "2", *each, "--name", cluster_name).returncode == 0
        )
        found = local.find(cluster_name)
        assert found is not None
    elif not tagged(found.tag, node_tag(1)):
        replace_node(found, 1)
    return found
