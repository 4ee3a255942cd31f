import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import refused, result_at, tiny_recipe
from torch import nn
from typer.testing import CliRunner

from kd_ray import deployed
from kd_ray.artefacts import evaluate_checkpoint, inspect
from kd_ray.cli import app
from kd_ray.errors import CheckpointError
from kd_ray.export.compare import Verification, check_promise
from kd_ray.own_code import offer
from kd_ray.pipeline import Run
from kd_ray.report.page import report_page
from kd_ray.runs import Finished
from kd_ray.runs.folder import read_run

STUDENT = "student/distilled/seed-0"
FILE = "student.packed.safetensors"
RECIPE = (
    'student.model={name="convnet",groups=[[4],[6]]}',
    "student.quantizer={weight_bits=2,activation_bits=1}",
    "student.baselines=[]",
    "train.seeds=[0]",
)
FORMATS = 'export={formats=["packed","onnx","pt2"]}'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the exports that its recipe asks for."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    recipe = tiny_recipe(*RECIPE, FORMATS)
    for _ in Run(recipe, folder, local=True).events():
        pass
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "tiny"))


def exported(path: Path, *options: str) -> str:
    """What the command prints."""
    answer = CliRunner().invoke(app, ["export", str(path), *options])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_a_run_makes_what_its_recipe_asks_for(run: Path):
    folder = run / "export" / STUDENT / "packed"
    result = result_at(folder)
    assert (result.stage, result.kind) == ("export", "export")
    assert result.metrics["agreement"] == 1
    assert result.parents["student"] == result_at(run / STUDENT).weights_sha256
    assert result.metrics["rows"] == result_at(run / STUDENT).metrics["rows"]
    student = deployed.load(folder / FILE)
    assert student.description["student_sha256"] == result.parents["student"]
    assert student.description["recipe"] == "tiny"
    assert not list(run.rglob(".tmp-*"))


def test_it_is_among_what_a_run_holds_and_in_the_report(run: Path):
    opened = read_run(run)
    mine = [each for each in opened.artefacts if each.kind == "export"]
    places = {f"export/{STUDENT}/{format}" for format in ("packed", "onnx", "pt2")}
    assert {each.place for each in mine} == places
    assert not opened.unfinished
    page = report_page(opened)
    assert all(each.title in page for each in mine)


def test_evaluated_it_has_the_figures_of_its_student(run: Path):
    student = evaluate_checkpoint(run / STUDENT)
    home = run / "export" / STUDENT
    for path in (home / "packed", home / "packed" / FILE, home / "onnx" / "student.onnx"):
        figures = evaluate_checkpoint(path)
        assert figures["accuracy"] == student["accuracy"]
        assert figures["loss"] == pytest.approx(student["loss"], abs=1e-5)


def test_package_of_torch_is_not_loaded_to_be_evaluated(run: Path):
    message = refused("evaluate", run / "export" / STUDENT / "pt2")
    assert "may have code that runs when torch loads it" in message
    assert f"evaluate the student of which it is, {STUDENT}" in message


@pytest.mark.parametrize("file", [f"packed/{FILE}", "onnx/student.onnx", "pt2/student.pt2"])
def test_inspected_it_is_shown_layer_by_layer(run: Path, file: str):
    title, facts = inspect(run / "export" / STUDENT / file)
    assert title.startswith(f"{STUDENT} as {file.split('/')[0]} ")
    assert facts["layer block2_1.conv"].endswith(
        "W 2 A 1, 216 weights, to 6 x 4 x 4, exact integers"
    )
    assert facts["in float"] == "block1_1.conv, head"


def test_command_exports_what_lies_at_a_path(copied: Path):
    printed = exported(copied / "teacher" / "member-00", "--rows", "10")
    assert "10 of 10" in printed
    folder = copied / "export" / "teacher" / "member-00" / "packed"
    assert result_at(folder).metrics["rows"] == 10
    (epoch,) = sorted((copied / STUDENT).glob("epoch-*"))[-1:]
    exported(epoch)
    assert (copied / "export" / STUDENT / epoch.name / "packed" / FILE).is_file()


def test_command_run_again_leaves_what_is_whole_and_mends_what_is_not(copied: Path):
    file = copied / "export" / STUDENT / "packed" / FILE
    before = file.stat().st_mtime_ns
    assert "was finished" in exported(copied / STUDENT)
    assert file.stat().st_mtime_ns == before
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    exported(copied / STUDENT)
    assert file.read_bytes() == content


def test_command_makes_several_formats_and_shows_them_in_one_table(copied: Path):
    printed = exported(copied / "teacher" / "member-00", "--format", "onnx", "--format", "pt2")
    assert [line.split()[0] for line in printed.splitlines() if " us" in line] == ["onnx", "pt2"]


def test_report_draws_the_front_of_several_exported_models(run: Path, copied: Path):
    picture = 'aria-label="Exported models"'
    assert picture not in report_page(read_run(run))
    exported(copied / "teacher" / "member-00", "--format", "onnx")
    page = report_page(read_run(copied))
    assert picture in page
    assert "W2 A1" in page.split(picture)[1].split("</svg>")[0]


def test_altered_onnx_file_is_refused(copied: Path):
    file = copied / "export" / STUDENT / "onnx" / "student.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    assert "must be as it was written, with sha256" in refused("evaluate", file)


def test_onnx_that_is_missing_is_asked_for(copied: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "install kd-ray[onnx]" in refused("evaluate", copied / "export" / STUDENT / "onnx")
    place = copied / "teacher" / "member-00"
    assert "install kd-ray[onnx]" in refused("export", place, "--format", "onnx")


def test_export_of_another_number_of_rows_is_refused_in_the_same_folder(copied: Path):
    message = refused("export", copied / STUDENT, "--rows", 3)
    assert "export.rows is unset there and 3 here" in message


def test_altered_export_is_refused(copied: Path):
    file = copied / "export" / STUDENT / "packed" / FILE
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    for command in ("evaluate", "inspect"):
        assert "must be as it was written, with sha256" in refused(command, file.parent)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("transfer_set", "must be a teacher's, specialist's or student's folder, but is that of"),
        ("", "must be a checkpoint (a folder with meta.json) or a finished training"),
        ("nowhere", "must be a checkpoint (a folder with meta.json) or a finished training"),
        (f"export/{STUDENT}/packed", "must be a teacher's, specialist's or student's folder"),
    ],
)
def test_what_is_no_model_is_refused(run: Path, place: str, message: str):
    assert message in refused("export", run / place)


def test_unknown_format_and_no_rows_are_refused(run: Path):
    assert "unknown format 'pakced'; did you mean 'packed'?" in refused(
        "export", run / STUDENT, "--format", "pakced"
    )
    assert "--rows: must be at least 1" in refused("export", run / STUDENT, "--rows", 0)


def test_checkpoint_that_was_taken_elsewhere_has_its_exports_beside_it(run: Path, tmp_path: Path):
    (epoch,) = sorted((run / STUDENT).glob("epoch-*"))[-1:]
    shutil.copytree(epoch, tmp_path / "alone")
    exported(tmp_path / "alone")
    file = tmp_path / "export" / "alone" / "packed" / FILE
    assert deployed.load(file).description["recipe"] == "tiny"
    assert evaluate_checkpoint(file)["accuracy"] == evaluate_checkpoint(epoch)["accuracy"]
    assert not (tmp_path / "recipe.toml").exists()


def test_command_leaves_the_recipe_of_the_run_as_it_is(copied: Path):
    before = (copied / "recipe.toml").read_bytes()
    exported(copied / "teacher" / "member-00", "--rows", "10")
    assert (copied / "recipe.toml").read_bytes() == before


def test_time_stands_beside_the_float_network_in_onnx_runtime_and_in_torch(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    figures = result_at(copied / "export" / STUDENT / "packed").metrics
    times = [figures[f"{name}us_per_image"] for name in ("", "onnx_", "torch_")]
    assert all(taken > 0 for taken in times)
    page = report_page(read_run(copied))
    assert f"<td>{times[1]:,.0f} us</td>" in page
    assert f"<td>{times[1] / times[0]:.1f} x</td>" in page
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exported(copied / "teacher" / "member-00")
    figures = result_at(copied / "export" / "teacher" / "member-00" / "packed").metrics
    assert "onnx_us_per_image" not in figures


def test_a_recipe_cannot_name_a_folder_outside_of_its_run(run: Path, tmp_path: Path):
    recipe = tiny_recipe(*RECIPE, f'export={{of=["../{run.name}/{STUDENT}"]}}')
    with pytest.raises(Exception, match=r"export\.of: must name folders below the run's"):
        list(Run(recipe, tmp_path / "other", local=True).events(["export"]))


def test_export_that_disagrees_is_an_error_and_leaves_no_file(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    wrong = deployed.KINDS | {"affine": lambda step, x: np.zeros_like(x, np.float32)}
    monkeypatch.setattr(deployed, "KINDS", wrong)
    shutil.rmtree(copied / "export")
    answer = CliRunner().invoke(app, ["export", str(copied / STUDENT)])
    assert answer.exit_code == 2
    assert "must give at least 99.9% of the test images the class that torch" in answer.stderr
    left = [path.name for path in (copied / "export").rglob("*") if path.is_file()]
    assert set(left) <= {".lock"}


def gelu(*, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model of one's own, with an operation that only torch keeps."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, classes))


def test_model_that_only_torch_can_keep_is_told_so_and_kept(tmp_path: Path):
    own = f'student.model={{name="{offer("gelu", gelu)}"}}'
    recipe = tiny_recipe(own, "student.baselines=[]", "train.seeds=[0]")
    for _ in Run(recipe, tmp_path / "own", local=True).events():
        pass
    place = tmp_path / "own" / STUDENT
    message = refused("export", place, "--format", "onnx", at_once=False)
    assert "layer '2' is a GELU(approximate='none'), which has no export" in message
    assert "choose --format pt2" in message
    assert "10 of 10" in exported(place, "--format", "pt2", "--rows", "10")
    _, facts = inspect(tmp_path / "own" / "export" / STUDENT / "pt2")
    assert not [name for name in facts if name.startswith("layer")]


def test_logits_that_are_no_numbers_break_the_promise():
    made = Verification(10, 1.0, float("nan"), 0)
    with pytest.raises(CheckpointError, match="must give at least"):
        check_promise("student", made)


def test_events_end_with_the_finished_export(run: Path):
    recipe = tiny_recipe(*RECIPE, FORMATS)
    last, *_ = [event for _, event in Run(recipe, run, local=True).events(["export"])]
    assert isinstance(last, Finished)
    assert last.existed
