import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
# Ray reads it when it is first imported, which a test module may do before this project does.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import logging
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from network import proxy

from kd_ray import own_code

# A shared machine may stall for longer than any deadline; examples are few and fast anyway.
settings.register_profile("kd-ray", deadline=None)
# What decides whether a change lands draws the same examples each time; others draw new ones.
settings.register_profile("same-examples", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kd-ray"))

# Doctests are collected from every module; two of one name cannot be.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

KEY, SECRET = "an-access-key-id", "a-secret-access-key"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process has all tests of a file, which share what is made once; and one has Ray.

    Slow tests of clusters mostly wait for nodes, so they may run beside those of Ray.
    """
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        if item.path.parent.name == "cluster" and item.get_closest_marker("slow"):
            group = "clusters"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of float sums depends on the number of threads, so tests fix it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_own_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that begins without permission for any own code, and leaves no module behind."""
    home = str(tmp_path_factory.getbasetemp())
    allowed, modules, path = dict(own_code._allowed), set(sys.modules), list(sys.path)
    own_code._allowed.clear()
    yield
    own_code._allowed.clear()
    own_code._allowed.update(allowed)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(home):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def offline() -> Iterator[None]:
    """A network that refuses every connection."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with proxy(nobody.getsockname()[1]):
            yield


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The endpoint of a real S3-compatible server of this test session."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(object_store: str) -> Iterator[Path]:
    """A new bucket, with the server and its credentials in the environment."""
    from kd_ray.files import to_path
    from kd_ray.files.store import store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", object_store)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        name = f"bucket-{secrets.token_hex(4)}"
        store("s3").call_s3("create_bucket", Bucket=name)
        yield to_path(f"s3://{name}")


@pytest.fixture
def stored_folder(bucket: Path) -> Path:
    """A place in the bucket that no other test uses."""
    return bucket / secrets.token_hex(4)
