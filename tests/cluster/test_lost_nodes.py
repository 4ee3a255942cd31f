"""Nodes that die, are cut off, see other storage, or are told to go; real processes, real kills."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import finish, kd_ray, lines_until, start, wait_for
from tiny import fingerprints, result_at
from tiny_cluster import add_sweep, kill_node, replace_node, wait_until_up

from cluster.local import LocalCluster, node_tag
from cluster.nodes import (
    NodeOptions,
    free_port,
    head_command,
    join_command,
    node_environment,
    provide_token,
)
from cluster.processes import CLUSTER_TAG, NODE_TAG, kill, launch, tagged
from kd_ray import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BOTH = ("--set", "resources.workers=2")
SHORT = ("--set", "train.epochs=1", "--set", "data.validation=200")


def submit(cluster: LocalCluster, *command: object) -> "subprocess.Popen[str]":
    return start("cluster", "submit", "--name", cluster.name, "--wait", "--", *command)


def test_a_killed_node_is_replaced_and_the_run_ends_with_the_bits_of_an_undisturbed_one(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    command = ("run", recipe, *BOTH, "--set", "train.epochs=200", "--runs", tmp_path)
    finish(submit(two_nodes, *command, "--set", "name=whole"))
    torn = submit(two_nodes, *command, "--set", "name=torn")
    lines_until(torn, "student distilled, seed 0: epoch")
    kill_node(two_nodes, 1)
    lines_until(torn, "Lost node")
    replace_node(two_nodes, 1)
    output = finish(torn)
    assert "student distilled, seed 0: finished" in output
    assert "raylet" not in output  # Ray's own words for it
    assert fingerprints(tmp_path / "torn") == fingerprints(tmp_path / "whole")


def test_an_elastic_training_goes_on_with_the_node_that_is_left(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    elastic = ("--set", "resources.elastic=[1, 2]", "--set", "train.epochs=300")
    torn = submit(two_nodes, "run", recipe, *elastic, "--runs", tmp_path)
    lines_until(torn, "student distilled, seed 0: epoch")
    kill_node(two_nodes, 1)
    assert "student distilled, seed 0: finished" in finish(torn)


def test_after_the_head_was_killed_the_same_command_goes_on(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    command = ("run", recipe, *BOTH, "--set", "train.epochs=200", "--runs", tmp_path)
    torn = submit(two_nodes, *command)
    lines_until(torn, "student distilled, seed 0: epoch")
    kill_node(two_nodes, 0)
    finish(torn, 2)
    assert kd_ray("cluster", "down", "--name", two_nodes.name).returncode == 0
    again = ("cluster", "up", "--nodes", "2", "--cpus", "1", "--name", two_nodes.name)
    assert kd_ray(*again).returncode == 0
    output = finish(submit(two_nodes, *command))
    assert "teacher 0: was finished" in output
    assert "student distilled, seed 0: finished" in output
    assert result_at(tmp_path / "tiny/student/distilled/seed-0").resumed_from


def test_a_sweep_loses_only_the_trials_on_a_dead_node_and_runs_them_again(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    import optuna

    add_sweep(recipe)
    sets = ("--set", "train.epochs=200", "--set", "data.validation=200", "--trials", 5)
    sweep = submit(two_nodes, "tune", "run", recipe, *sets, "--runs", tmp_path)
    lines_until(sweep, "trial 2: T")
    kill_node(two_nodes, 1)
    finish(sweep)
    study = optuna.load_study(
        study_name=None, storage=f"sqlite:///{tmp_path / 'tiny/sweep/study.db'}"
    )
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 5
    assert [trial.number for trial in study.trials] == list(range(5))


def test_a_node_that_is_told_to_go_has_its_epoch_kept_where_it_is(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    long_epochs = ("--set", "train.batch_size=2", "--set", "train.epochs=20")
    torn = submit(two_nodes, "run", recipe, *BOTH, *long_epochs, "--runs", tmp_path)
    lines_until(torn, "student distilled, seed 0: epoch 1/")
    masters = [p for p in tagged(two_nodes.tag, node_tag(1)) if "start" in p.cmdline()]
    masters[0].terminate()  # as a supervisor does, or the machine that is about to be taken away
    seen = lines_until(torn, "a machine will be taken away; kept as it is at step")
    assert "Lost node" not in seen
    lines_until(torn, "Lost node")
    kept = tmp_path / "tiny/student/distilled/seed-0"
    replace_node(two_nodes, 1)
    assert "student distilled, seed 0: finished" in finish(torn)
    assert not (kept / "under-way").exists()


def test_a_node_that_does_not_see_the_run_folder_is_named(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    if shutil.which("unshare") is None or os.getuid():
        pytest.skip("needs a mount namespace, which only root may make")
    runs = tmp_path / "runs"
    runs.mkdir()
    kill_node(two_nodes, 1)
    machine = NodeOptions(cpus=1, temporary=two_nodes.folder / "ray-1", store_bytes=2**27)
    joining = join_command(machine, two_nodes.address)
    hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {runs} && exec "$@"', "sh"]
    tags = {CLUSTER_TAG: two_nodes.tag, NODE_TAG: node_tag(1)}
    log = two_nodes.folder / "hidden.log"
    launch([*hidden, *joining], log, node_environment(tags))
    wait_until_up(log, two_nodes.tag, node_tag(1))
    status = ("cluster", "status", "--name", two_nodes.name)  # a process has one token for good
    wait_for("two nodes", lambda: ": 2 nodes," in kd_ray(*status).stdout)
    at = ("--runs", runs, "--address", two_nodes.address)
    run(recipe, SHORT[1::2], runs=runs, local=True)
    add_sweep(recipe)
    for command in (("run", recipe, *BOTH, "--set", "name=new"), ("tune", "run", recipe, *SHORT)):
        refused = kd_ray(*command, *at)
        assert refused.returncode == 2, refused.stdout
        assert "every node must see the run folder" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stdout + refused.stderr
    kill_node(two_nodes, 1)


@pytest.fixture
def two_hosts(shared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two network namespaces with addresses of their own, joined by a cable; their prefix."""
    # A host that does not answer is missed after twenty seconds and not after a minute.
    monkeypatch.setenv("RAY_health_check_timeout_ms", "3000")
    if shutil.which("ip") is None or os.getuid():
        pytest.skip("needs network namespaces, which only root may make")
    prefix = f"kd{os.getpid() % 100000}"
    tag = f"hosts-{prefix}"
    hosts = [f"{prefix}h{n}" for n in (1, 2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    for host in hosts:
        ip("netns", "add", host)
    ip("link", "add", f"{prefix}a", "type", "veth", "peer", "name", f"{prefix}b")
    for number, (host, link) in enumerate(zip(hosts, (f"{prefix}a", f"{prefix}b"), strict=True), 1):
        ip("link", "set", link, "netns", host)
        ip("-n", host, "addr", "add", f"10.99.0.{number}/24", "dev", link)
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "link", "set", link, "up")
    yield prefix
    kill(tagged(tag))
    for host in hosts:
        ip("netns", "del", host)


def test_a_host_that_is_cut_off_and_comes_back_takes_part_again(
    two_hosts: str, recipe: Path, tmp_path: Path
):
    provide_token()
    h1, h2, tag = f"{two_hosts}h1", f"{two_hosts}h2", f"hosts-{two_hosts}"
    port, dashboard_port = free_port(), free_port()
    # Paths of sockets are short, and those of tests are long.
    short = Path("/tmp") / two_hosts
    head = head_command(
        NodeOptions(cpus=1, ip="10.99.0.1", temporary=short, store_bytes=2**27),
        port=port,
        dashboard_port=dashboard_port,
        dashboard_host="10.99.0.1",
    )
    node = join_command(NodeOptions(cpus=1, ip="10.99.0.2", store_bytes=2**27), f"10.99.0.1:{port}")
    url = f"http://10.99.0.1:{dashboard_port}"

    def launched(host: str, command: list[str], name: str) -> Path:
        tags = {CLUSTER_TAG: tag, NODE_TAG: name}
        log = tmp_path / f"{name}.log"
        launch(["ip", "netns", "exec", host, *command], log, node_environment(tags))
        wait_until_up(log, tag, name)
        return log

    def asked(*words: object) -> list[str]:
        return ["ip", "netns", "exec", h1, *_typed(*words)]

    try:
        launched(h1, head, "head")
        launched(h2, node, "node")
        command = ("run", recipe, *BOTH, "--set", "train.epochs=200", "--runs", tmp_path)
        torn = subprocess.Popen(
            asked("cluster", "submit", "--address", url, "--wait", "--", *command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines_until(torn, "student distilled, seed 0: epoch")
        subprocess.run(["ip", "-n", h2, "link", "set", f"{two_hosts}b", "down"], check=True)
        lines_until(torn, "Lost node 10.99.0.2")
        subprocess.run(["ip", "-n", h2, "link", "set", f"{two_hosts}b", "up"], check=True)
        # A supervisor starts the node's process again once that has noticed that it was given up.
        wait_for("the lost node's end", lambda: not tagged(tag, "node"))
        launched(h2, node, "again")
        assert "student distilled, seed 0: finished" in finish(torn)
    finally:
        kill(tagged(tag))
        shutil.rmtree(short, ignore_errors=True)


def _typed(*words: object) -> list[str]:
    import sys

    return [sys.executable, "-m", "kd_ray", *map(str, words)]
