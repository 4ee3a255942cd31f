"""What tests do with clusters: a recipe whose student trains for long, nodes that die."""

from pathlib import Path

from processes import wait_for

from cluster import local
from cluster.local import LocalCluster, node_tag
from cluster.nodes import NodeOptions, join_command, node_environment
from cluster.processes import CLUSTER_TAG, NODE_TAG, kill, launch, tagged

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
gpus_per_worker = 0
"""


def add_sweep(recipe: Path) -> None:
    """Gives a recipe eight trials, each trained alone and none of them stopped early."""
    with recipe.open("a") as file:
        file.write(
            '[sweep]\ntrials = 8\nsampler = "random"\nscheduler = "none"\nfuse = 1\n'
            '[sweep.space]\n"objective.temperature" = { log_uniform = [1, 20] }\n'
        )


def kill_node(cluster: LocalCluster, number: int) -> None:
    """Ends a node as a power cut does."""
    found = tagged(cluster.tag, node_tag(number))
    assert found
    kill(found)


def end_at_once(name: str) -> None:
    """Ends the cluster of that name, if there is one, without the patience of its `down`."""
    if (cluster := local.find(name)) is not None:
        kill(tagged(cluster.tag))
    local.down(name)


def replace_node(cluster: LocalCluster, number: int) -> None:
    """Starts another node in the place of a dead one, and waits until it has joined.

    The cluster's `down` ends it.
    """
    machine = NodeOptions(1, 1, temporary=cluster.folder / f"ray-{number}", store_bytes=2**27)
    tags = {CLUSTER_TAG: cluster.tag, NODE_TAG: node_tag(number)}
    log = cluster.folder / f"again-{number}.log"
    launch(join_command(machine, cluster.address), log, node_environment(tags))
    wait_until_up(log, cluster.tag, node_tag(number))


def wait_until_up(log: Path, *tags: str) -> None:
    """Waits for what a node says when it has joined; it must not end before."""
    wait_for("a node", lambda: "block forever" in log.read_text() or not tagged(*tags))
    assert tagged(*tags), log.read_text()[-2000:]


WRONG_TOKEN = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}
"""Variables of the environment with a token that is not the cluster's."""
