"""Streamed rows on real Ray: two workers, one of which is killed, and the trials of a sweep."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import tomli_w
from packed_digits import data, pack_digits, recipe
from processes import finish, signal_when, start, workers
from tiny import result_at

from kd_ray import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of many small shards, whose rows are streamed."""
    folder = tmp_path_factory.mktemp("streamed")
    table = recipe(pack_digits(folder / "digits"), "stream").model_dump(
        mode="json", exclude_none=True, exclude={"sweep"}
    )
    table["data"] = data(folder / "digits", "stream")
    table["transfer_set"] |= {"views": 60, "shard_rows": 100}
    table["resources"] |= {"cpus_per_worker": 1, "fuse": 1}
    path = folder / "streamed.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def test_streamed_rows_are_labelled_by_two_workers_of_which_one_is_killed(
    written: Path, tmp_path: Path
) -> None:
    labelled = tmp_path / "streamed" / "transfer_set"
    run(written, runs=tmp_path, stages=["teach"], local=True)
    shutil.copytree(tmp_path, tmp_path / "alone", ignore=shutil.ignore_patterns("alone"))
    driver = start("run", written, "--runs", tmp_path, "--workers", 2)
    signal_when(driver, signal.SIGCONT, lambda: len(list(labelled.glob("*.parquet"))) > 4)
    assert not (labelled / "manifest.json").exists()
    victims = workers(driver, b"RayTrainWorker")
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    finish(driver)
    assert result_at(tmp_path / "streamed/student/distilled/seed-0").metrics["accuracy"] > 0.75
    run(written, runs=tmp_path / "alone", stages=["label"], local=True)
    theirs = sorted((tmp_path / "alone/streamed/transfer_set").glob("*.parquet"))
    assert len(theirs) > 100
    for path in theirs:
        assert (labelled / path.name).read_bytes() == path.read_bytes()


def test_trials_of_a_sweep_stream_their_rows(written: Path, tmp_path: Path) -> None:
    table = """
[sweep]
space = { "train.lr" = { log_uniform = [0.003, 0.03] } }
sampler = "random"
scheduler = "none"
trials = 2
enqueue = []
"""
    path = tmp_path / "swept.toml"
    path.write_text(written.read_text() + table)
    few = ["--set", "transfer_set.views=2", "--set", "train.epochs=2"]
    output = finish(start("tune", "run", path, "--runs", tmp_path, *few))
    assert "2 trials" in output
