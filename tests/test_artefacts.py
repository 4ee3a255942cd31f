import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import perform, result_at, tasks, tiny_recipe

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint, inspect
from kd_ray.artefacts.evaluate import checkpoint_at
from kd_ray.errors import CheckpointError, ConfigError, KdRayError, TransferSetError
from kd_ray.pipeline import Run
from kd_ray.result import RESULT
from kd_ray.training.checkpoint import META

STUDENT = Path("student/distilled/seed-0")
TEACHER = Path("teacher/member-00")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; never changed."""
    folder = tmp_path_factory.mktemp("finished")
    for _ in Run(tiny_recipe(), folder, local=True).events():
        pass
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def change_meta(checkpoint: Path, **changes: Any) -> None:
    file = checkpoint / META
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("folder", [STUDENT, TEACHER])
def test_evaluate_checkpoint_gives_the_figures_of_the_training(finished: Path, folder: Path):
    stated = result_at(finished / folder).metrics
    figures = evaluate_checkpoint(finished / folder)
    assert figures.keys() == {"rows", "accuracy", "errors", "loss", "calibration_error"}
    assert figures == pytest.approx({key: stated[key] for key in figures}, rel=1e-6)


def test_evaluate_checkpoint_takes_an_epochs_folder_too(finished: Path):
    path = checkpoint_at(finished / STUDENT)
    assert path.name == "epoch-0002"
    assert checkpoint_at(path) == path
    assert evaluate_checkpoint(path) == evaluate_checkpoint(finished / STUDENT)


def test_evaluate_checkpoint_of_other_data_is_refused_with_both_fingerprints(copied: Path):
    path = checkpoint_at(copied / STUDENT)
    change_meta(path, parents={"dataset": "somewhere else"})
    with pytest.raises(CheckpointError, match="fingerprint somewhere else, but digits here has"):
        evaluate_checkpoint(path)


def test_evaluate_checkpoint_of_something_else_says_what_it_takes(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="must be a checkpoint"):
            evaluate_checkpoint(path)


def test_evaluate_checkpoint_of_an_unfinished_training_is_refused(copied: Path):
    (copied / STUDENT / RESULT).unlink()
    with pytest.raises(CheckpointError, match="must be a checkpoint"):
        evaluate_checkpoint(copied / STUDENT)


def test_audit_transfer_set_of_an_honest_run_passes_on_every_row(finished: Path):
    found = audit_transfer_set(finished / "transfer_set", sample=None)
    assert found.passed
    assert found.rows == result_at(finished / "transfer_set").metrics["rows"]


def test_audit_transfer_set_takes_the_teachers_of_the_run_it_is_told(
    finished: Path, tmp_path: Path
):
    alone = Path(shutil.copytree(finished / "transfer_set", tmp_path / "set"))
    with pytest.raises(CheckpointError, match="training must have finished"):
        audit_transfer_set(alone)
    assert audit_transfer_set(alone, finished, sample=10).rows == 10 + 10


def test_audit_transfer_set_refuses_another_teacher(finished: Path, tmp_path: Path):
    (other, *_) = tasks(tiny_recipe("teacher.train.seed=1"), tmp_path)
    perform([other])
    with pytest.raises(TransferSetError, match="it must be of the run's teachers"):
        audit_transfer_set(finished / "transfer_set", tmp_path)


def test_audit_transfer_set_refuses_a_sample_of_nothing(finished: Path):
    with pytest.raises(ConfigError, match="--rows: must be at least 1, but got 0"):
        audit_transfer_set(finished / "transfer_set", sample=0)


def test_audit_transfer_set_refuses_an_altered_file(copied: Path):
    file = copied / "transfer_set" / "test-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TransferSetError, match="it was truncated"):
        audit_transfer_set(copied / "transfer_set")


def test_inspect_tells_what_lies_at_a_path(finished: Path):
    title, facts = inspect(finished / "transfer_set")
    assert title.startswith("transfer set ")
    assert facts["rows"].startswith("train 16")
    assert facts["logits"] == "float16, M x K = 1 x 10"
    title, facts = inspect(finished / STUDENT)
    assert title.startswith("student ")
    assert facts["epoch"] == 2
    assert facts["sha256 model.safetensors"] == result_at(finished / STUDENT).weights_sha256
    title, facts = inspect(finished)
    assert title.startswith("run ")
    assert set(facts) == {
        "teacher 0",
        "transfer set",
        "student labels, seed 0",
        "student distilled, seed 0",
    }


def test_inspect_shows_what_is_unfinished(copied: Path):
    (copied / STUDENT / RESULT).unlink()
    facts = inspect(copied)[1]
    assert (
        facts["student distilled, seed 0 (2 of 2 epochs)"] == "unfinished; the same command goes on"
    )


def test_inspect_of_something_else_says_what_it_takes(tmp_path: Path):
    with pytest.raises(
        ConfigError, match="must be a run folder, a checkpoint, a transfer set or packed data"
    ):
        inspect(tmp_path)


@pytest.mark.parametrize("name", [META, "manifest.json", RESULT])
def test_inspect_of_a_damaged_artefact_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_text("{")
    with pytest.raises(KdRayError, match=name.replace(".", r"\.")):
        inspect(tmp_path)
