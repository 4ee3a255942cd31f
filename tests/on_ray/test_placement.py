"""CPUs and GPUs shared out over nodes, on plain numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_ray.config import Resources
from kd_ray.errors import ClusterError
from kd_ray.on_ray import Node, Placement, share_out

nodes = st.lists(st.builds(Node, cpus=st.integers(1, 9), gpus=st.integers(0, 4)), max_size=4)
fractions = st.sampled_from(["auto", 0, 0.1, 0.25, 0.3, 0.5, 0.75, 1])


@given(nodes, st.integers(1, 12), st.sampled_from(["auto", 1, 2, 3]), fractions)
def test_what_is_shared_out_fits_on_the_nodes_or_is_refused_with_the_arithmetic(
    cluster: list[Node], workers: int, cpus: int | str, gpus: float | str
):
    asked = Resources.model_validate(
        {"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    )
    try:
        found = share_out(asked, cluster)
    except ClusterError:
        with pytest.raises(ClusterError, match=r" need \d+ .PUs.*, but there are \d+; "):
            share_out(asked, cluster)
        return
    assert found.workers == workers
    held = 0
    for node in cluster:
        by_gpus = node.gpus * math.floor(1 / found.gpus + 1e-9) if found.gpus else math.inf
        held += int(min(node.cpus // found.cpus, by_gpus))
    assert held >= workers


def test_a_fraction_of_a_gpu_is_never_made_of_two_gpus():
    two = [Node(cpus=8, gpus=2)]
    assert share_out(Resources(workers=4, gpus_per_worker=0.4), two).gpus == 0.4
    with pytest.raises(ClusterError, match=r"5 workers with 0\.4 GPU each need 3 GPUs"):
        share_out(Resources(workers=5, gpus_per_worker=0.4), two)


def test_cpus_lie_beside_the_gpus_that_they_feed():
    lopsided = [Node(cpus=1, gpus=4), Node(cpus=16, gpus=0)]
    with pytest.raises(ClusterError, match="beside their GPUs"):
        share_out(Resources(workers=4, gpus_per_worker=1, cpus_per_worker=1), lopsided)


def test_an_elastic_training_gets_as_many_workers_as_there_is_room_for():
    elastic = Resources(elastic=(1, 3), cpus_per_worker=1)
    assert [share_out(elastic, [Node(1)] * n).workers for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    with pytest.raises(ClusterError, match="need 2 CPUs, but there are 1"):
        share_out(Resources(elastic=(2, 3), cpus_per_worker=1), [Node(1)])


def test_an_elastic_training_stays_on_gpus_when_there_are_fewer_of_them():
    elastic = Resources(elastic=(1, 4), cpus_per_worker=1)
    assert share_out(elastic, [Node(8, 2)]) == Placement(2, 1, 1)


def test_what_no_node_can_hold_is_told_from_what_is_too_many():
    with pytest.raises(ClusterError, match=r"lower resources\.cpus_per_worker"):
        share_out(Resources(cpus_per_worker=8), [Node(4), Node(4)])
