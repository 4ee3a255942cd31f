"""What a user gets wrong is answered with one sentence on stderr and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import refused, tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("objective.temprature=3", "objective.temprature: unknown key; did you mean 'temperature'"),
        ("objective.temperature=0", "objective.temperature: input should be greater than or equal"),
        ("objective.temperature=1e308", "objective.temperature: a number must be within ±1e+36"),
        ("student.model=mpl", "student.model.name: unknown model 'mpl'; did you mean 'mlp'?"),
        ("train.epochs", "--set train.epochs: must be key=value, such as train.epochs=5"),
        ("train.schedule=cosin", "train.schedule.name: unknown schedule 'cosin'"),
        (
            f"train.schedule={'x' * 3000}",
            "train.schedule.name: string should have at most 100",
        ),
        ("objective.temperature=1e7", "objective.temperature: input should be less than or equal"),
        (f"objective.members={10**30}", "objective.members: a number must be within ±1e+12"),
        ("objective.members=1001", "objective.members: input should be less than or equal to 1000"),
        (f"train.epochs=0x{'f' * 5000}", "train.epochs: a number must be within ±1e+12"),
        (f"train.epochs={'9' * 5000}", "train.epochs: keys and texts must have at most 4000 char"),
        (
            f"data.classes={'[' * 5000}{']' * 5000}",
            "data.classes: keys and texts must have",
        ),
        (f"data.classes={'[' * 20}{']' * 20}", "nested at most 16 deep"),
        (f"{'a.' * 5000}a=1", "nested at most 16 deep"),
        (f"train.seeds={list(range(20_000))}", "must have at most 10000 values"),
        (
            "student.model.hidden=[99999999999]",
            "hidden.0: input should be less than or equal",
        ),
        (
            'student.model={name="mlp",hidden=[1000000,1000000]}',
            "weights need 4,000 GB, and their gradients as much again",
        ),
        (
            "objective.member_weights=[0.0,0.0]",
            "member_weights must have a positive and finite",
        ),
        ("transfer_set.unlabelled=1.0", "transfer_set.unlabelled: 1 hides every label"),
        ("resources.workers=1000000000", "resources.workers: input should be less than or equal"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_recipe_that_breaks_a_rule_is_answered_with_the_rule(
    tmp_path: Path, command: str, override: str, sentence: str
):
    runs = tmp_path / "runs"
    options = ["--local", "--runs", runs] if command == "run" else []
    assert sentence in refused(command, tiny_file(tmp_path), *options, "--set", override)
    assert not runs.exists()


def test_two_workers_in_this_process_are_answered_with_what_to_leave_out(tmp_path: Path):
    runs = tmp_path / "runs"
    answer = refused("run", tiny_file(tmp_path), "--local", "--workers", "2", "--runs", runs)
    assert "leave --local out, or use --workers 1" in answer
    assert not list(runs.rglob("*.safetensors"))


def test_an_empty_path_is_answered_with_one_that_is_not(tmp_path: Path):
    recipe = tiny_file(tmp_path)
    for command in (["run", recipe, "--local", "--runs", ""], ["inspect", ""], ["report", ""]):
        assert "a path must name a place, but is empty" in refused(*command)
    given = ["--set", "transfer_set.path=''"]
    assert "but is empty" in refused("distill", recipe, "--local", "--runs", tmp_path, *given)


def test_an_unknown_recipe_is_answered_with_the_nearest_name(tmp_path: Path):
    answer = refused("run", "quickstrat", "--local", "--runs", tmp_path)
    assert "quickstrat: a recipe is a .toml file or a shipped name; did you mean 'quick" in answer
    assert "must be a readable text file" in refused("run", tmp_path / "none.toml")


@pytest.mark.parametrize(
    "content",
    [
        b"name = ",
        b"\xff\xfe\x00\x01",
        b"a = " + b"9" * 5000,
        b"a = " + b"[" * 5000 + b"]" * 5000,
        b"a" + b".a" * 5000 + b" = 1",
    ],
    ids=["half", "binary", "digits", "nesting", "tables"],
)
def test_a_corrupt_recipe_is_answered_with_its_place(tmp_path: Path, content: bytes):
    path = tmp_path / "corrupt.toml"
    path.write_bytes(content)
    assert "corrupt.toml: " in refused("check", path)


def test_a_pipe_in_place_of_a_recipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.toml")
    assert "must be a readable text file" in refused("check", tmp_path / "pipe.toml")


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x: must begin with a known home"),
        ("x" * 300, "names of files must have at most 255 bytes"),
        ("x/" * 1999, "paths 3000"),
    ],
)
def test_a_path_that_no_file_system_has_is_answered_with_the_rule(
    tmp_path: Path, root: str, sentence: str
):
    recipe = tiny_file(tmp_path, f"data.root='{root}'", "data.name=mnist")
    assert sentence in refused("run", recipe, "--local", "--runs", tmp_path / "runs")
    assert "names of files must" in refused("check", "x" * 5000)
    assert "names of files must" in refused("run", recipe, "--local", "--runs", "x" * 300)


@pytest.mark.usefixtures("offline")
def test_missing_data_without_a_network_is_answered_with_where_it_should_be(tmp_path: Path):
    root = tmp_path / "data"
    recipe = tiny_file(tmp_path, "data.name=mnist", f"data.root='{root}'")
    answer = refused("run", recipe, "--local", "--runs", tmp_path / "runs")
    assert f"mnist: {root} must hold " in answer
    assert "KD_RAY_DATA" in answer
    assert not root.exists()


def test_a_corrupt_picture_is_answered_with_its_place(tmp_path: Path):
    for name in ("cat", "dog"):
        for number in range(2):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no picture")
    recipe = tiny_file(
        tmp_path,
        "data.name=imagefolder",
        "data.image_size=8",
        f"data.root='{tmp_path / 'pictures'}'",
    )
    answer = refused("run", recipe, "--local", "--runs", tmp_path / "runs")
    assert ".png: must be a picture, but cannot be read" in answer


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("evaluate", "must be a checkpoint"),
        ("inspect", "must be a run folder, a checkpoint, a transfer set or packed data"),
        ("audit", "transfer set"),
    ],
)
def test_a_path_that_is_no_artefact_is_answered_with_what_one_is(
    tmp_path: Path, command: str, sentence: str
):
    for path in (tmp_path, tmp_path / "nowhere"):
        answer = refused(command, path)
        assert answer.startswith(f"kd-ray: {path}: ")
        assert sentence in answer


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"kind": "teacher"})])
@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_a_corrupt_checkpoint_is_answered_with_its_place(
    tmp_path: Path, command: str, content: str
):
    (tmp_path / "meta.json").write_text(content)
    assert f"{tmp_path / 'meta.json'}: must be as it was written" in refused(command, tmp_path)


def test_a_stage_without_its_forerunner_is_answered_with_the_command_to_run(tmp_path: Path):
    recipe = tiny_file(tmp_path)
    runs = tmp_path / "runs"
    assert "run kd-ray label" in refused("distill", recipe, "--local", "--runs", runs)
    assert "training must have finished" in refused("label", recipe, "--local", "--runs", runs)


def test_a_folder_that_cannot_be_written_is_answered_with_another_option(tmp_path: Path):
    (tmp_path / "runs").write_text("a file in the way")
    answer = refused("run", tiny_file(tmp_path), "--local", "--runs", tmp_path / "runs")
    assert "cannot be written" in answer
    assert "--runs" in answer


def test_the_executable_itself_answers_with_one_line_and_exit_code_2(tmp_path: Path):
    command = [sys.executable, "-m", "kd_ray", "check", str(tmp_path / "none.toml")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("kd-ray: ")
    assert answer.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kd_ray.pipeline.open_recipe", broken)
    answer = CliRunner().invoke(app, ["check", str(tiny_file(tmp_path))])
    assert answer.exit_code == 1
    assert isinstance(answer.exception, ZeroDivisionError)
