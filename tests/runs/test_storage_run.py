"""Whole runs in an object store: killed, gone on with, and with the bytes of one on a disk."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import finish, signal_when, start
from tiny import tiny_file, tiny_recipe
from typer.testing import CliRunner

from kd_ray.artefacts import evaluate_checkpoint
from kd_ray.cli import app
from kd_ray.errors import CheckpointError, TransferSetError
from kd_ray.pipeline import run
from kd_ray.result import RESULT
from kd_ray.runs import Finished, result_model
from kd_ray.training.checkpoint import epochs_in
from kd_ray.transfer_set import open_transfer_set, read_manifest

RECIPE = (
    "data.fraction=0.5",
    "data.validation=100",
    "teacher.train.epochs=8",
    "teacher.train.keep=best",
    "transfer_set.shard_rows=100",
    "transfer_set.include_images=true",
    "student.baselines=[]",
    "train.epochs=40",
)
pytestmark = pytest.mark.slow
TEACHER, STUDENT = Path("teacher/member-00"), Path("student/distilled/seed-0")
# A checkpoint after every epoch, as on a disk, so that a kill finds one in a training this short.
PROGRAM = """
import sys
from kd_ray import pipeline
from kd_ray.cli import main
pipeline.STORED_CHECKPOINT_S = 0.0
main()
"""


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same recipe on a disk, run without a break."""
    runs = tmp_path_factory.mktemp("disk")
    run(tiny_recipe(*RECIPE), runs=runs, local=True)
    return runs / "tiny"


@pytest.fixture(scope="module")
def killed(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder in the store, of a run that was killed while its student trained."""
    runs = bucket / "runs"
    recipe = tiny_file(tmp_path_factory.mktemp("recipe"), *RECIPE)
    process = start("run", recipe, "--local", "--runs", runs, program=("-c", PROGRAM))
    signal_when(process, signal.SIGKILL, lambda: bool(epochs_in(runs / "tiny" / STUDENT)))
    finish(process, -signal.SIGKILL)
    assert not (runs / "tiny" / STUDENT / RESULT).is_file()
    return runs / "tiny"


@pytest.fixture(scope="module")
def in_store(killed: Path) -> Path:
    """The same, gone on with to its end."""
    begun = epochs_in(killed / STUDENT)[-1]
    assert 1 <= begun < 40
    run(tiny_recipe(*RECIPE), runs=str(killed.parent), local=True)
    return killed


def test_a_run_killed_in_a_store_ends_with_the_bytes_of_one_on_a_disk(
    in_store: Path, on_disk: Path
):
    written = [
        str(path.relative_to(on_disk))
        for path in on_disk.rglob("*")
        if path.suffix in (".safetensors", ".parquet", ".toml") or path.name == "manifest.json"
    ]
    assert len(written) >= 10
    for name in written:
        assert (in_store / name).read_bytes() == (on_disk / name).read_bytes(), name


def test_nothing_but_the_artefacts_is_left_in_the_store(in_store: Path, on_disk: Path):
    def files(folder: Path) -> set[str]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return {name for name in found if "lock" not in name and not name.endswith(".html")}

    assert files(in_store) == files(on_disk)
    assert not list(in_store.rglob(".*"))


def test_no_credential_is_in_any_file_of_a_run(in_store: Path):
    for path in in_store.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                assert os.environ[name].encode() not in content, path


def test_a_finished_run_in_a_store_is_found_finished(in_store: Path):
    events = []
    run(
        str(in_store / "recipe.toml"),
        runs=str(in_store.parent),
        local=True,
        listener=lambda task, event: events.append(event),
    )
    assert [type(event) for event in events] == [Finished] * 3
    assert all(event.existed for event in events)


def answer(*arguments: object) -> str:
    """What a command prints."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, (found.output, found.exception)
    return " ".join(found.output.split())


def test_what_lies_in_a_store_is_inspected_evaluated_audited_and_reported(in_store: Path):
    assert "student distilled, seed 0 test accuracy" in answer("inspect", in_store)
    assert "epoch 40" in answer("inspect", in_store / STUDENT)
    assert "logits float16" in answer("inspect", in_store / "transfer_set")
    assert "rows 451" in answer("evaluate", in_store / STUDENT)
    assert "every one is its teacher's" in answer("audit", in_store / "transfer_set")
    assert f"{in_store}/report.html: written" in answer("report", in_store)
    page = (in_store / "report.html").read_text(encoding="utf-8")
    assert "student distilled" in page
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in page


def test_a_student_on_a_disk_learns_from_a_transfer_set_in_a_store_and_goes_on_from_one(
    in_store: Path, on_disk: Path, tmp_path: Path
):
    def student(place: Path, runs: Path) -> Path:
        recipe = tiny_recipe(
            *RECIPE,
            "train.epochs=42",
            f"transfer_set.path={place / 'transfer_set'}",
            f"student.continues={place / STUDENT.parent}",
        )
        run(recipe, runs=runs, local=True, stages=("distill",))
        return result_model(runs / "tiny" / STUDENT)

    there, here = student(in_store, tmp_path / "there"), student(on_disk, tmp_path / "here")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


def test_a_transfer_set_in_a_store_without_its_manifest_is_unfinished(stored_folder: Path):
    (stored_folder / "train-00000.parquet").write_bytes(b"half")
    with pytest.raises(TransferSetError, match="labelling has not finished"):
        read_manifest(stored_folder)
    with pytest.raises(TransferSetError, match="a transfer set is a folder, but there is none"):
        read_manifest(stored_folder / "nothing")


@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("transfer_set/test-00000.parquet", open_transfer_set, TransferSetError),
        (STUDENT / "epoch-0040" / "model.safetensors", evaluate_checkpoint, CheckpointError),
    ],
)
def test_an_altered_file_in_a_store_is_refused_by_its_url(
    in_store: Path, name: str, read: Callable[[Path], object], error: type[Exception]
):
    path = in_store / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(error, match=f"^{path}: .*sha256"):
        read(path.parent)
    path.write_bytes(whole)
