"""Trainings beside each other: the bits of --local, and a lost one is trained again, alone."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import finish, lines_until, start, workers
from tiny import fingerprints

from kd_ray import run
from kd_ray.config import Resources
from kd_ray.errors import ClusterError
from kd_ray.on_ray.placement import Node, share_parallel

RECIPE = """
name = "tiny"
[data]
name = "digits"
[teacher]
models = [{ name = "mlp", hidden = [64] }, { name = "convnet", groups = [[4], [8]] }]
members = 3
[teacher.train]
epochs = 40
batch_size = 64
augment = { shift = 1 }
[student]
model = { name = "mlp", hidden = [8] }
baselines = []
[train]
epochs = 2
[resources]
cpus_per_worker = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.ray
@pytest.mark.slow
def test_members_train_in_parallel_and_one_that_is_killed_is_trained_again_alone(
    recipe: Path, tmp_path: Path
) -> None:
    process = start("run", recipe, "--runs", tmp_path / "ray")
    output = lines_until(process, "teacher 1: epoch")  # before teacher 0 has ended
    assert "Starting 2 trainings in parallel" in output
    assert "teacher 0: finished" not in output
    alive = workers(process, b"Performer")
    assert len(alive) == 2
    os.kill(alive[0], signal.SIGKILL)
    output += finish(process)
    restarts = [line for line in output.splitlines() if "goes on after epoch" in line]
    assert len(restarts) <= 1, output  # it may have been killed before its first checkpoint
    run(recipe, runs=tmp_path / "here", local=True)
    assert len(fingerprints(tmp_path / "here" / "tiny")) == 5
    assert fingerprints(tmp_path / "ray" / "tiny") == fingerprints(tmp_path / "here" / "tiny")

    # Labels alone, by a worker without Ray Train around it, are of the same bytes, too.
    (tmp_path / "ray" / "tiny" / "transfer_set").rename(tmp_path / "of-all-stages")
    output = finish(start("label", recipe, "--runs", tmp_path / "ray"))
    assert "Starting 1 Ray worker" in output
    shards = sorted((tmp_path / "here" / "tiny" / "transfer_set").glob("*.parquet"))
    assert len(shards) == 2
    for file in shards:
        alone = tmp_path / "ray" / "tiny" / "transfer_set" / file.name
        assert file.read_bytes() == alone.read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_a_member_that_fails_lets_the_others_end_and_is_said_in_one_sentence(
    recipe: Path, tmp_path: Path
) -> None:
    deep = "{ name='convnet', groups=[[4], [4], [4], [4], [4]] }"  # for pictures of eight pixels
    bad = f"teacher.models=[{{ name='mlp', hidden=[64] }}, {deep}]"
    process = start("teach", recipe, "--runs", tmp_path, "--set", bad, "--set", "teacher.members=2")
    output = finish(process, 2)
    assert "Traceback" not in output
    assert "teacher 0: finished" in output
    assert "in parallel" in output


clusters = st.lists(
    st.builds(Node, cpus=st.integers(1, 9), gpus=st.integers(0, 4)), min_size=1, max_size=4
)


@given(
    cluster=clusters,
    trainings=st.integers(1, 12),
    workers=st.integers(1, 3),
    cpus=st.sampled_from(["auto", 1, 2]),
    gpus=st.sampled_from(["auto", 0, 0.25, 0.5, 1]),
)
def test_as_many_trainings_as_fit_run_in_parallel_and_no_more_than_there_are(
    cluster: list[Node], trainings: int, workers: int, cpus: int | str, gpus: float | str
):
    asked = Resources.model_validate(
        {"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    )
    try:
        placement, slots = share_parallel(asked, trainings, cluster)
    except ClusterError:
        return
    assert placement.workers == workers
    assert 1 <= slots <= trainings
    room = sum(node.holds(placement.cpus, placement.gpus) for node in cluster)
    assert room >= slots * workers
    if cpus != "auto" and slots < trainings:
        assert room < (slots + 1) * workers


def test_a_training_that_gets_all_cpus_alone_gets_them_beside_others_too():
    """Else its bits would depend on what runs beside it."""
    nodes = [Node(cpus=4), Node(cpus=4)]
    assert share_parallel(Resources(), 1, nodes)[0] == share_parallel(Resources(), 2, nodes)[0]
    assert share_parallel(Resources(), 5, nodes)[1] == 2


def test_an_elastic_training_takes_the_cluster_for_itself():
    assert share_parallel(Resources(elastic=(1, 2)), 5, [Node(cpus=8)])[1] == 1
