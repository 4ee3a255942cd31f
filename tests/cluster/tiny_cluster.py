"""What tests do with clusters: commands as a user types them, nodes that die, jobs in words."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster.local import LocalCluster, node_tag
from cluster.nodes import NodeOptions, join_command, node_environment
from cluster.processes import CLUSTER_TAG, NODE_TAG, kill, launch, tagged
from kd_ray.result import read_result

DEADLINE_S = 240.0

TINY = """
name = "tiny"
[data]
name = "digits"
[teacher]
model = { name = "mlp", hidden = [64] }
[teacher.train]
epochs = 3
[transfer_set]
shard_rows = 400
[student]
model = { name = "mlp", hidden = [32] }
baselines = []
[train]
epochs = 1000
batch_size = 128
[resources]
cpus_per_worker = 1
"""


def kd_ray(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "kd_ray", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(*arguments: object) -> subprocess.Popen[str]:
    """Starts a command; it is read line by line."""
    return subprocess.Popen(
        [sys.executable, "-m", "kd_ray", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def lines_until(process: subprocess.Popen[str], words: str) -> str:
    """Reads what a command prints up to the line that has `words` in it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} was never printed, only:\n{seen}")


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Asks until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def add_sweep(recipe: Path) -> None:
    """Gives a recipe eight trials, none of which is stopped early."""
    with recipe.open("a") as file:
        file.write(
            '[sweep]\ntrials = 8\nsampler = "random"\nscheduler = "none"\n'
            '[sweep.space]\n"objective.temperature" = { log_uniform = [1, 20] }\n'
        )


def kill_node(cluster: LocalCluster, number: int) -> None:
    """Ends a node as a power cut does."""
    found = tagged(cluster.tag, node_tag(number))
    assert found
    kill(found)


def replace_node(cluster: LocalCluster, number: int) -> None:
    """Starts another node in the place of a dead one; the cluster's `down` ends it."""
    machine = NodeOptions(cpus=1, temporary=cluster.folder / f"ray-{number}", store_bytes=2**27)
    tags = {CLUSTER_TAG: cluster.tag, NODE_TAG: node_tag(number)}
    log = cluster.folder / f"again-{number}.log"
    launch(join_command(machine, cluster.address), log, node_environment(tags))


def weights(run: Path) -> dict[str, str]:
    """Fingerprints of all that a run trained, and of its transfer set's files."""
    manifest = json.loads((run / "transfer_set" / "manifest.json").read_text())
    found = {"transfer set": json.dumps(manifest["files"], sort_keys=True)}
    for file in sorted(run.rglob("result.json")):
        result = read_result(file.parent)
        if result is not None and result.stage != "label":
            found[result.title] = result.weights_sha256
    assert len(found) >= 3
    return found


def without_token() -> dict[str, str]:
    """The environment with a token that is not the cluster's."""
    return {**os.environ, "RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}
