"""`kd-ray repeat`: everything of a recipe from other seeds, teachers included."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from tiny import tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.cli.studies import study_with_display
from kd_ray.result import Result, read_result
from kd_ray.studies.repeat import repeat


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished study, of an ensemble of two teachers."""
    folder = tmp_path_factory.mktemp("repeat")
    recipe = str(tiny_file(folder, "teacher.members=2", "name=tiny"))
    study = repeat(recipe, [0, 3], runs=folder, local=True)
    study_with_display(study, str(folder))
    return folder / "tiny-repeat"


def results(folder: Path, pattern: str) -> list[Result]:
    files = sorted(folder.glob(f"{pattern}/result.json"))
    return [result for file in files if (result := read_result(file.parent)) is not None]


def table(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_bytes())
    assert found["status"] == "finished"
    return found


def test_no_two_repeats_share_a_teacher_or_a_student(done: Path) -> None:
    teachers = results(done, "*/teacher/member-*")
    first = [result.recipe["teacher"]["train"]["seed"] for result in teachers]
    assert first == [0, 0, 6, 6]  # member m has the next m-th
    assert len({result.weights_sha256 for result in teachers}) == 4
    for seed in (0, 3):
        students = results(done, f"seed-{seed}/student/*/*")
        assert {result.variant for result in students} == {"labels", "distilled"}
        assert {result.seed for result in students} == {seed}


def test_figures_are_over_repeats(done: Path) -> None:
    found = table(done)["models"]
    for variant in ("labels", "distilled"):
        errors = [r.metrics["errors"] for r in results(done, f"*/student/{variant}/*")]
        assert found[variant]["errors"]["mean"] == pytest.approx(mean(errors))
        assert found[variant]["errors"]["spread"] == pytest.approx(stdev(errors))
    members = [
        mean(float(r.metrics["errors"]) for r in results(done, f"seed-{seed}/teacher/*"))
        for seed in (0, 3)
    ]
    assert found["teacher"]["errors"]["values"] == members
    assert len(found["ensemble"]["errors"]["values"]) == 2


def test_a_second_time_nothing_is_trained_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/*/**/result.json")}
    recipe = str(next(done.parent.glob("*.toml")))
    sets = ["teacher.members=2", "name=tiny"]
    study_with_display(repeat(recipe, [0, 3], sets, runs=done.parent, local=True), str(done.parent))
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1"], "seeds: must be at least two, from 0 on, each once, but got [1]"),
        (["--seeds", "1,1"], "--seeds: must be whole numbers, each once"),
        (["--set", "train.seeds=[4]"], "--set train.seeds=[4]: train.seeds tells the experiments'"),
        (["--set", 'teacher.path="runs/x"'], "repeats train teachers of their own"),
    ],
)
def test_what_cannot_be_repeated_is_said_in_a_sentence(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    recipe = str(tiny_file(tmp_path))
    made = CliRunner().invoke(app, ["repeat", recipe, "--runs", str(tmp_path), *arguments])
    assert made.exit_code == 2
    assert said in " ".join(made.output.split())
    assert "Traceback" not in made.output
