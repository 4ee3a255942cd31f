"""Specialists on two real Ray workers, and the files that they write together."""

import shutil
from pathlib import Path

import pytest
from tiny import result_at, tiny_file

from kd_ray import run

SPECIALISTS = "specialists={ count = 3, classes_each = 4, train = { epochs = 2, lr = 0.01 } }"


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_specialists_and_combine_them_to_the_bytes_that_one_makes(
    tmp_path: Path,
) -> None:
    recipe = tiny_file(tmp_path, SPECIALISTS, "student.baselines=[]")
    two, one = tmp_path / "two", tmp_path / "one"
    summary = run(recipe, ["resources.workers=2"], runs=two)
    assert summary.row("specialized") is not None
    shutil.copytree(two, one)
    shutil.rmtree(one / "tiny" / "specialists" / "transfer_set")
    run(recipe, runs=one, local=True)
    ours, theirs = (result_at(runs / "tiny/specialists/transfer_set") for runs in (one, two))
    assert ours.sha256 == theirs.sha256
    assert ours.details["coverage"] == theirs.details["coverage"]
