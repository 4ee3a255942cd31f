"""Jobs on a real cluster of two nodes on this machine."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from processes import finish, kd_ray, lines_until, start
from tiny import fingerprints
from tiny_cluster import WRONG_TOKEN, add_sweep, end_at_once

from cluster import local
from cluster.local import LocalCluster
from cluster.processes import tagged
from kd_ray import run

pytestmark = pytest.mark.ray
ANSWER_S = 15.0
DRIVER = ["-m", "kd_ray", "run"]


@pytest.mark.slow
def test_a_job_is_stopped_half_way_submitted_again_and_ends_as_if_it_had_not_been(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    runs, where = tmp_path / "runs", ("--name", two_nodes.name)
    assert ": 2 nodes, 2 CPU" in kd_ray("cluster", "status", *where).stdout
    long = "train.epochs=700"
    run_it = ("run", recipe, "--set", long, "--runs", runs)
    command = ("cluster", "submit", *where, "--wait", "--", *run_it)

    watched = start(*command)
    lines_until(watched, "Starting 1 Ray worker")
    again = kd_ray(*command)
    assert again.returncode == 2
    assert "one job at a time may make a run, but tiny-1 is running" in again.stderr
    lines_until(watched, "student distilled, seed 0: epoch")
    stopped = kd_ray("cluster", "stop", "tiny-1", *where)
    assert stopped.stdout.strip() == "tiny-1: stopped", stopped.stderr
    finish(watched, 1)
    assert not (runs / "tiny" / "student" / "distilled" / "seed-0" / "result.json").exists()

    finished = kd_ray(*command)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "tiny-2: submitted" in finished.stdout
    assert "student distilled, seed 0: finished" in finished.stdout
    run(recipe, [long], runs=tmp_path / "here", local=True)
    assert fingerprints(runs / "tiny") == fingerprints(tmp_path / "here" / "tiny")
    listed = kd_ray("cluster", "jobs", *where).stdout.splitlines()
    for job, state in (("tiny-1", "stopped"), ("tiny-2", "succeeded")):
        assert any(job in line and state in line for line in listed)
    assert "student distilled" in kd_ray("cluster", "logs", "tiny-2", *where).stdout
    _refusals(two_nodes, recipe)


def _refusals(cluster: LocalCluster, recipe: Path) -> None:
    """What goes wrong is said in one sentence; here, as a cluster takes long to start."""
    where = ("--address", cluster.address)
    unknown = kd_ray("cluster", "status", "tinny-9", "--name", cluster.name)
    assert unknown.returncode == 2
    assert "job 'tinny-9': must be one that was submitted" in unknown.stderr
    for command in (("run", recipe, "--set", "name=other", *where), ("cluster", "jobs", *where)):
        began = time.monotonic()
        refused = kd_ray(*command, **WRONG_TOKEN)
        assert refused.returncode == 2, refused.stdout
        assert "the cluster wants a token" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert (
            time.monotonic() - began < 3 * ANSWER_S
        )  # of which most is imports, on a busy machine


@pytest.mark.slow
def test_a_job_that_is_terminated_says_how_to_go_on_and_who_watches_it_gets_its_status(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    where = ("--name", two_nodes.name)
    run = ("--", "run", recipe, "--set", "name=ended", "--runs")
    watched = start("cluster", "submit", *where, "--wait", *run, tmp_path)
    lines_until(watched, "student distilled, seed 0: epoch")
    (driver,) = [p for p in tagged(two_nodes.tag) if p.info["cmdline"][1:4] == DRIVER]
    driver.terminate()
    output = finish(watched, 143)
    assert "go on with: kd-ray run recipe.toml" in output
    assert "Traceback" not in output

    other = kd_ray("cluster", "submit", *where, *run, tmp_path / "elsewhere")
    assert "ended-2: submitted" in other.stdout, other.stderr  # another run of the same name
    assert kd_ray("cluster", "stop", "ended-2", *where).returncode == 0


@pytest.mark.slow
def test_logical_gpus_are_placed_and_more_than_there_are_is_refused(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    """Nodes that count as having a GPU: what is placed on it trains on the CPU."""
    submit = ("cluster", "submit", "--name", two_nodes.name, "--wait", "--")
    short = ("--set", "train.epochs=20", "--set", "resources.gpus_per_worker=1", "--runs", tmp_path)
    spread = ("--workers", "2", "--set", "resources.placement='spread'", "--set", "name=placed")
    done = kd_ray(*submit, "run", recipe, *short, *spread)
    too_many = kd_ray(*submit, "run", recipe, *short, "--workers", "3", "--set", "name=many")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting 2 Ray workers (1 CPU, 1 GPU each)" in done.stdout
    assert too_many.returncode == 2, too_many.stdout
    assert "3 workers with 1 GPU each need 3 GPUs, but there are 2" in too_many.stdout


@pytest.mark.slow
def test_trials_share_a_gpu_by_fractions_and_one_that_asks_for_all_of_it_runs_alone(
    shared_home: Path, recipe: Path, tmp_path: Path
):
    """One node that counts as having a GPU; how many trials are in flight, the output tells."""
    name, runs = f"gpus-{tmp_path.stat().st_ino % 10**8}", ("--runs", tmp_path)
    add_sweep(recipe)
    short = ("--set", "train.epochs=100", "--set", "data.validation=200", "--set", "sweep.trials=4")
    one = ("--nodes", "1", "--cpus", "2", "--gpus", "1")
    run(recipe, short[1::2], runs=tmp_path, local=True)
    assert kd_ray("cluster", "up", *one, "--name", name).returncode == 0
    submit = ("cluster", "submit", "--name", name, "--wait", "--", "tune", "run", recipe, *short)
    try:
        for gpus, interleaved in (("0.5", 2), ("1", 1)):
            shutil.rmtree(tmp_path / "tiny" / "sweep", ignore_errors=True)
            done = kd_ray(*submit, *runs, "--set", f"resources.gpus_per_worker={gpus}")
            assert done.returncode == 0, done.stdout + done.stderr
            assert most_in_flight(done.stdout) == interleaved, done.stdout
    finally:
        end_at_once(name)


def most_in_flight(output: str) -> int:
    """The largest number of trials that had begun and not ended."""
    flying: set[str] = set()
    most = 0
    for number, what in re.findall(r"trial (\d+): (\S+)", output):
        (flying.discard if what == "finished" else flying.add)(number)
        most = max(most, len(flying))
    return most


OWN_CODE = """
import helper

def tiny(shape, classes):
    return helper.net(shape, classes, {width})

def squares(z, v):
    return {width} * (z - v).square().mean(dim=-1)
"""
HELPER = """
from math import prod
from torch import nn

def net(shape, classes, width):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(prod(shape), width), nn.ReLU(), nn.Linear(width, classes)
    )
"""


@pytest.mark.slow
def test_own_code_travels_with_its_job_and_two_versions_of_it_do_not_mix(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    own = [
        *("--set", 'student.model="own:tiny"', "--set", 'objective.name="own:squares"'),
        *("--set", 'resources.packages=["helper"]', "--set", "train.epochs=3"),
    ]
    for width in (4, 6):
        folder = tmp_path / f"width-{width}"
        folder.mkdir()
        (folder / "own.py").write_text(OWN_CODE.format(width=width))
        (folder / "helper.py").write_text(HELPER)
        (folder / "tiny.toml").write_text(recipe.read_text())
        command = ["run", folder / "tiny.toml", *own, "--set", f"name=width-{width}"]
        kd_ray(*command, "--local", "--runs", tmp_path / "here")
        submitted = ["cluster", "submit", "--name", two_nodes.name, "--", *command]
        assert kd_ray(*submitted, "--runs", tmp_path / "there").returncode == 0
        shutil.rmtree(folder)  # where a cluster's nodes are, it is not
    for name in ("width-4", "width-6"):
        assert kd_ray("cluster", "logs", f"{name}-1", "--name", two_nodes.name, "--follow")
        here, there = (fingerprints(tmp_path / place / name) for place in ("here", "there"))
        assert len(here) == 3
        assert there == here


@pytest.mark.slow
def test_a_submitted_job_makes_the_bits_of_this_process_and_down_ends_every_process(
    two_nodes: LocalCluster, recipe: Path, tmp_path: Path
):
    where = ("--name", two_nodes.name)
    again = kd_ray("cluster", "up", *where)
    assert again.returncode == 2
    assert f"is up already, at {two_nodes.address}" in again.stderr

    short = ("--set", "train.epochs=20")
    watched = start(
        "cluster", "submit", *where, "--wait", "--", "run", recipe, *short, "--runs", tmp_path
    )
    assert "student distilled, seed 0: finished" in finish(watched)
    run(recipe, short[1:], runs=tmp_path / "here", local=True)
    assert len(fingerprints(tmp_path / "tiny")) == 3
    assert fingerprints(tmp_path / "tiny") == fingerprints(tmp_path / "here" / "tiny")

    assert [*answering_everybody(two_nodes)] == []
    bystander = subprocess.Popen(["sleep", "600"])
    assert len(tagged(two_nodes.tag)) > 5
    assert kd_ray("cluster", "down", *where).returncode == 0
    assert tagged(two_nodes.tag) == []
    assert not two_nodes.folder.exists()
    assert local.find(two_nodes.name) is None
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def answering_everybody(cluster: LocalCluster) -> Iterator[str]:
    """What listens on all interfaces and answers a request without a token."""
    for process in tagged(cluster.tag):
        for connection in process.net_connections("tcp"):
            ip, port = connection.laddr
            if connection.status == psutil.CONN_LISTEN and ip in ("0.0.0.0", "::"):
                with contextlib.suppress(OSError, HTTPException):
                    answer = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_S)
                    yield f"{process.name()} at {ip}:{port} answers {answer.status}"
