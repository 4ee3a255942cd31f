"""Advice of runs that were made to have a fault, and none of one that has none."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_file, tiny_recipe
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.pipeline import open_recipe, run
from kd_ray.report.advice import advice
from kd_ray.report.page import write_report
from kd_ray.report.summary import Summary

HEALTHY = (
    "data.fraction=0.5",
    "teacher.model={ name = 'mlp', hidden = [64] }",
    "teacher.train.epochs=30",
    "student.model={ name = 'mlp', hidden = [16] }",
    "train.epochs=12",
)
FAULTS = {
    "too sure": (["objective.temperature=0.25"], "The teacher is too sure at T = 0.25: its soft"),
    "drowned": (
        ["objective.temperature=20", "objective.soft_weight=1"],
        "The soft term is drowned: its gradient is 0.0",
    ),
    "drowning": (["objective.soft_weight='1000*T^2'"], "The labels are drowned: the soft term's"),
    "small": (
        ["student.model.hidden=[2]"],
        "The student distilled underfits its teacher: after 12",
    ),
    "short": (["train.epochs=1"], "The student distilled underfits its teacher: after 1 epoch "),
    "dead": (
        [
            "student.model={ name = 'convnet', groups = [[4], [4]] }",
            "student.quantizer={ method = 'megvii', weight_bits = 2, activation_bits = 1 }",
            "train.lr=1e-4",
            "train.epochs=1",
        ],
        "Dead layers, with this share of their activations on one level: student ",
    ),
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return run(tiny_recipe(*HEALTHY), runs=tmp_path_factory.mktemp("runs"), local=True)


def test_a_run_without_a_fault_gets_no_advice_and_its_report_has_no_word_of_it(
    healthy: Summary,
) -> None:
    assert advice(healthy) == []
    assert "Advice" not in write_report(healthy.folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(("overrides", "said"), FAULTS.values(), ids=FAULTS)
def test_advice_names_the_fault_of_a_run_that_was_made_to_have_it(
    healthy: Summary, tmp_path: Path, overrides: list[str], said: str
) -> None:
    given = f"transfer_set.path='{healthy.folder / 'transfer_set'}'"
    recipe = tiny_recipe(*HEALTHY, "student.baselines=[]", given, *overrides)
    lines = advice(run(recipe, runs=tmp_path, local=True))
    assert any(line.startswith(said) for line in lines), lines


def test_advice_names_views_that_are_too_few_for_a_student_that_knows_its_images_by_heart(
    tmp_path: Path,
) -> None:
    few = ("transfer_set.fraction=0.05", "train.epochs=40", "train.batch_size=16")
    (line,) = advice(run(tiny_recipe(*HEALTHY, *few), runs=tmp_path, local=True))
    assert line.startswith("Too few views: the student distilled chooses the teacher's class for ")
    assert "after 40 epochs of 1 view; raise transfer_set.views" in line


def test_advice_on_a_teacher_that_is_no_better_is_printed_and_on_the_page(tmp_path: Path) -> None:
    bad = ("teacher.model.hidden=[2]", "teacher.train.epochs=1")
    file = tiny_file(tmp_path, *HEALTHY, *bad)
    answer = CliRunner().invoke(app, ["run", str(file), "--local", "--runs", str(tmp_path)])
    said = r"The teacher is no better than the student: it makes \d+ test errors"
    assert answer.exit_code == 0
    assert re.search(f"^Advice: {said}", answer.stdout, re.MULTILINE)
    page = write_report(tmp_path / "tiny").read_text(encoding="utf-8")
    assert re.search(f"<li>{said}", page)


def test_advice_of_a_run_whose_figures_are_older_is_none(healthy: Summary) -> None:
    bare = [result.model_copy(update={"history": []}) for result in healthy.results]
    assert advice(replace(healthy, results=bare)) == []


@pytest.mark.slow
def test_the_quickstart_gets_no_advice(tmp_path: Path) -> None:
    assert advice(run(open_recipe("quickstart"), runs=tmp_path, local=True)) == []
