import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import tiny_file
from typer.testing import CliRunner, Result

from kd_ray.cli import app
from kd_ray.report.page import write_report

ONE_EPOCH = ("train.epochs=1", "train.seeds=[0, 1]", "student.baselines=[]")


def exercises(folder: Path, *arguments: str, overrides: Sequence[str] = ()) -> Result:
    recipe = tiny_file(folder, *ONE_EPOCH, *overrides)
    return CliRunner().invoke(
        app, ["exercises", str(recipe), "--local", "--runs", str(folder), *arguments]
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder with the exercises of two temperatures, and what was printed."""
    folder = tmp_path_factory.mktemp("exercises")
    result = exercises(folder, "--temperatures", "1,4.5")
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_exercises_prints_a_row_for_the_teacher_and_each_exercise_and_temperature(
    done: tuple[Path, str],
) -> None:
    rows = re.findall(r"^(teacher|Q\d [^\d-]+?) +(-|[\d.]+) +[\d.]+", done[1], re.MULTILINE)
    names = [
        *("teacher", "Q1 labels only", "Q2 soft targets only", "Q2 soft targets only"),
        *(["Q3 labels and soft targets"] * 2 + ["Q4 labels, softened at T"] * 2),
    ]
    assert [name for name, _ in rows] == names
    assert [t for _, t in rows] == ["-", "-", *["1", "4.5"] * 3]


def test_exercises_saves_the_same_figures_with_their_spread_as_csv(done: tuple[Path, str]) -> None:
    folder, output = done
    with (folder / "tiny" / "exercises.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["exercise"], row["temperature"]) for row in rows] == [
        ("q1", ""),
        *((q, t) for q in ("q2", "q3", "q4") for t in ("1.0", "4.5")),
    ]
    for row in rows:
        assert row["seeds"] == "2"
        mean, spread = float(row["accuracy_mean"]), float(row["accuracy_spread"])
        assert f"{100 * mean:.2f} ± {100 * spread:.2f}" in output


def test_exercises_page_has_the_plot_and_the_table_inside_it(done: tuple[Path, str]) -> None:
    page = (done[0] / "tiny" / "exercises.html").read_text()
    assert page.count("<svg") == 1
    assert "Q4 labels, softened at T" in page
    assert "<table>" in page
    assert not re.search(r'(src|href)="http', page)


def test_exercises_use_one_teacher_and_one_transfer_set_and_go_on_where_they_were(
    done: tuple[Path, str],
) -> None:
    folder = done[0]
    assert len(list((folder / "tiny" / "teacher").iterdir())) == 1
    again = exercises(folder, "--temperatures", "1,4.5,9")
    assert again.exit_code == 0, again.output
    assert "transfer set: was finished" in again.output
    assert "student q3-T4.5, seed 1: was finished" in again.output
    assert "student q2-T9, seed 0: finished" in again.output


def test_report_of_exercises_does_not_miss_the_students_that_were_not_asked_for(
    done: tuple[Path, str],
) -> None:
    page = write_report(done[0] / "tiny").read_text()
    assert "unfinished" not in page
    assert "q3-T4.5" in page


@pytest.mark.parametrize("given", ["", "1,,2", "warm", "0", "4,4"])
def test_exercises_refuse_temperatures_before_anything_is_trained(
    tmp_path: Path, given: str
) -> None:
    result = exercises(tmp_path, "--temperatures", given)
    assert result.exit_code == 2
    assert "temperatures: must be" in result.output
    assert not (tmp_path / "tiny").exists()
