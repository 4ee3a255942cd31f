"""Addresses without a cluster, and clusters that must not be; no Ray is started."""

import os
import socket
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import refused

from cluster import jobs
from cluster.local import cluster_folder
from cluster.nodes import NodeOptions, head_command, join_command, node_environment, provide_token
from kd_ray.errors import ClusterError
from kd_ray.on_ray import check_cluster


@pytest.fixture
def deaf() -> str:
    """An address where something listens that is no Ray."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(
            ClusterError, match="a Ray cluster must answer there, but Connection re"
        ):
            check_cluster(address)


@pytest.mark.slow
def test_something_that_is_no_ray_is_refused_within_seconds(deaf: str):
    began = time.monotonic()
    with pytest.raises(ClusterError, match="nothing that Ray understands"):
        check_cluster(deaf)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("address", ["head", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str):
    with pytest.raises(ClusterError, match="must be HOST:PORT"):
        check_cluster(address)


def test_without_a_cluster_every_command_says_how_to_get_one(home: Path):
    for command in (("status",), ("jobs",), ("logs", "x"), ("submit", "--", "quickstart")):
        assert "start one with `kd-ray cluster up`" in refused("cluster", *command)


def test_a_dashboard_is_open_to_others_only_with_a_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    where = {"port": 1, "dashboard_port": 2, "dashboard_host": "0.0.0.0"}
    assert "--dashboard-host=0.0.0.0" in head_command(NodeOptions(), **where)
    assert "--dashboard-host=127.0.0.1" in head_command(NodeOptions(), port=1, dashboard_port=2)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="must ask for a token"):
        head_command(NodeOptions(), **where)
    assert head_command(NodeOptions(), port=1, dashboard_port=2)


def test_a_token_is_made_once_and_for_its_owner_alone(home: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = Path(provide_token())
    assert path == home / ".ray" / "auth_token"
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert provide_token() == str(path)
    assert path.read_text() == token
    for command in (
        head_command(NodeOptions(), port=1, dashboard_port=2),
        join_command(NodeOptions(), "h:1"),
    ):
        assert not any(token in word for word in command)


def test_a_token_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH: must name a file"):
        provide_token()


def test_a_token_that_can_be_guessed_is_refused_and_a_file_that_others_may_read_is_warned_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    file = home / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    file.touch(mode=0o600)
    for token in ("", "secret\n"):
        file.write_text(token)
        sentence = f"{file}: a token must have at least 16 characters, but has {len(token.strip())}"
        assert sentence in refused("cluster", "up", "--name", "never")
    file.write_text("0123456789abcdef")
    file.chmod(0o640)
    with pytest.warns(UserWarning, match=f"others may read the token; run chmod 600 {file}"):
        assert provide_token() == str(file)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "short")
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN: a token must have"):
        provide_token()


def test_nodes_give_notice_and_run_this_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    found = node_environment({"TAG": "x"})
    assert found["RAY_AUTH_MODE"] == "token"
    assert int(found["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) >= 30
    assert found["TAG"] == "x"
    assert "RAY_ADDRESS" not in found
    assert Path(found["PATH"].split(os.pathsep)[0], "python").exists()
    monkeypatch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "7")
    assert node_environment({})["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "7"


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 40])
def test_a_cluster_has_a_name_that_a_folder_can_have(name: str):
    with pytest.raises(ClusterError, match="--name"):
        cluster_folder(name)


def test_a_cluster_lies_where_paths_of_sockets_are_short(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    deep = home / "a-folder-with-a-long-name"
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    answer = refused("cluster", "up", "--name", "never")
    assert "must have at most 107 bytes" in answer
    assert not any((deep / f"kd-ray-{os.getuid()}").iterdir())


def test_numbers_that_make_no_cluster_are_refused(home: Path):
    for options, words in (
        (("--nodes", "0"), "--nodes: must be at least 1"),
        (("--cpus", "-1"), "--cpus: must be at least 0, but got -1"),
    ):
        assert words in refused("cluster", "up", "--name", "never", *options)


def test_what_a_job_server_refuses_is_said_with_the_request_and_its_answer(
    monkeypatch: pytest.MonkeyPatch,
):
    def list_jobs() -> None:
        raise RuntimeError("Request failed with status code 500: \nNo space left on device\n")

    monkeypatch.setattr(jobs, "job_client", lambda _: SimpleNamespace(list_jobs=list_jobs))
    sentence = "http://h:1: the job server answered 500 to the request to list jobs: No space left"
    with pytest.raises(ClusterError, match=sentence):
        jobs.jobs("http://h:1")
