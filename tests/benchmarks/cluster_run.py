"""A training on two nodes beside the same in one process; how long a cluster takes.

    uv run python tests/benchmarks/cluster_run.py --data FOLDER [--epochs 8] [--fraction 0.2]

Starts a cluster of two nodes with a CPU each on this machine and distils the exercise's network
(W2A1, batch 256) there, with two workers, and in one process with two threads, from one transfer
set. Then the same again, but one node is killed (kill -9 of all its processes) after its second
epoch and another one started. Printed are images/s and their ratio, seconds from submitting to the
first epoch, seconds from the new node's joining to the next epoch, and test accuracies.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from cluster import local
from cluster.local import LocalCluster, node_tag
from cluster.nodes import NodeOptions, join_command, node_environment
from cluster.processes import CLUSTER_TAG, NODE_TAG, kill, launch, tagged
from cluster.server import node_states

NAME = "bench"
STUDENT = "student/distilled/seed-0/result.json"


def command(data: str, name: str, runs: Path, arguments: argparse.Namespace) -> list[str]:
    """Arguments of a distillation; the first makes the transfer set that the others share."""
    sets = [
        f"name={name}",
        f"data.root={data}",
        f"data.fraction={arguments.fraction}",
        "teacher.train.epochs=2",
        "train.seeds=[0]",
        f"train.epochs={arguments.epochs}",
        "train.lr=4e-3",
        "train.schedule=one-cycle",
    ]
    if name != "set":
        sets.append(f"transfer_set.path={runs / 'set' / 'transfer_set'}")
    options = [word for value in sets for word in ("--set", value)]
    return ["label" if name == "set" else "distill", "svhn-q3", *options, "--runs", str(runs)]


def kd_ray(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "kd_ray", *words], check=True, stdout=subprocess.DEVNULL)


def watched(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kd_ray", *words], stdout=subprocess.PIPE, text=True
    )


def seconds_until(process: "subprocess.Popen[str]", words: str) -> float:
    """Seconds until a line of a process's output has some words."""
    began = time.perf_counter()
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return time.perf_counter() - began
    raise SystemExit(f"never printed: {words}")


def replace_second_node(cluster: LocalCluster) -> float:
    """Kills the second node and starts another; the moment at which that was up."""
    kill(tagged(cluster.tag, node_tag(1)))
    machine = NodeOptions(cpus=1, temporary=cluster.folder / "ray-1", store_bytes=2**28)
    tags = {CLUSTER_TAG: cluster.tag, NODE_TAG: node_tag(1)}
    log = cluster.folder / "again.log"
    launch(join_command(machine, cluster.address), log, node_environment(tags))
    while "block forever" not in log.read_text():
        time.sleep(0.1)
    return time.perf_counter()


def result(runs: Path, name: str) -> dict[str, float]:
    found = json.loads((runs / name / STUDENT).read_text())
    return {"images_per_s": found["images_per_s"], "accuracy": found["metrics"]["accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("KD_RAY_DATA"), required=False)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--fraction", type=float, default=0.2)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)

        def of(name: str) -> list[str]:
            return command(arguments.data, name, runs, arguments)

        first = of("set")
        kd_ray("teach", *first[1:], "--local", "--set", "resources.cpus_per_worker=2")
        kd_ray(*first, "--local", "--set", "resources.cpus_per_worker=2")
        kd_ray(*of("alone"), "--local", "--set", "resources.cpus_per_worker=2")
        cluster = local.up(2, cpus=1, name=NAME, listener=console.print)
        try:
            both = ("--workers", "2", "--set", "resources.cpus_per_worker=1")
            submit = ("cluster", "submit", "--name", NAME, "--wait", "--")
            whole = watched(*submit, *of("whole"), *both)
            began = seconds_until(whole, "epoch 1/")
            whole.communicate()
            torn = watched(*submit, *of("torn"), *both)
            seconds_until(torn, "epoch 2/")
            joined = replace_second_node(cluster)
            seconds_until(torn, "Lost node")
            seconds_until(torn, ": epoch")
            mended = time.perf_counter() - joined
            torn.communicate()
            nodes = [node.alive for node in node_states(cluster.dashboard)]
        finally:
            local.down(NAME)
        figures = {name: result(runs, name) for name in ("alone", "whole", "torn")}
    for name, found in figures.items():
        console.print(f"{name:6} {found['images_per_s']:8.0f} images/s, {found['accuracy']:.4f}")
    ratio = figures["whole"]["images_per_s"] / figures["alone"]["images_per_s"]
    console.print(f"two nodes / two threads of one process: {ratio:.2f} of the images/s")
    console.print(f"submit to the first epoch: {began:.1f} s")
    console.print(f"new node up to the next epoch: {mended:.1f} s (nodes alive: {sum(nodes)})")


if __name__ == "__main__":
    main()
