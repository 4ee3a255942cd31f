"""`kd-ray views`: one transfer set, students of its first V views, one without stored logits."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import Result
from tiny import tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.report.page import write_report

SHIFTED = ("transfer_set.augment={ shift = 1 }", "transfer_set.views=2", "train.seeds=[0, 1]")


def views(folder: Path, *arguments: str, overrides: Sequence[str] = SHIFTED) -> Result:
    recipe = tiny_file(folder, *overrides)
    command = ["views", str(recipe), "--local", "--runs", str(folder), *arguments]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder with students of one and of three views, and what was printed."""
    folder = tmp_path_factory.mktemp("views")
    result = views(folder, "--views", "1,3")
    assert result.exit_code == 0, result.output
    return folder, result.output


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiny" / "views.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_views_label_one_set_with_the_most_views_and_show_fewer_of_them(
    done: tuple[Path, str],
) -> None:
    folder, output = done
    assert len(re.findall(r"^transfer set: finished", output, re.MULTILINE)) == 1
    students = sorted(path.name for path in (folder / "tiny" / "student").iterdir())
    assert students == ["online", "views-1", "views-3"]


def test_views_table_and_csv_have_a_row_for_each_number_and_for_the_teacher_in_every_step(
    done: tuple[Path, str],
) -> None:
    folder, output = done
    rows = table_of(folder)
    assert [row["views"] for row in rows] == ["1", "3", "online"]
    assert re.findall(r"^(1|3|in every step) +[\d.]+ ±", output, re.MULTILINE) == [
        *("1", "3", "in every step")
    ]
    for row in rows:
        shown = (
            f"{100 * float(row['accuracy_mean']):.2f} ± {100 * float(row['accuracy_spread']):.2f}"
        )
        assert shown in output


def test_views_cost_is_the_measured_set_by_rows(done: tuple[Path, str]) -> None:
    folder, _ = done
    one, three, online = table_of(folder)
    files = (folder / "tiny" / "transfer_set").glob("*.parquet")
    assert float(three["set_bytes"]) == sum(file.stat().st_size for file in files)
    train, test = 168, 450  # rows of an eighth of the digits
    share = (train + test) / (3 * train + test)
    assert float(one["set_bytes"]) / float(three["set_bytes"]) == pytest.approx(share, rel=0.02)
    assert float(one["teacher_s"]) / float(three["teacher_s"]) == pytest.approx(share, rel=0.02)
    assert online["set_bytes"] == ""
    assert float(online["teacher_s"]) == pytest.approx(
        float(online["student_s"]) - (float(one["student_s"]) + float(three["student_s"])) / 2
    )


def test_views_page_has_the_plot_and_the_table_inside_it(done: tuple[Path, str]) -> None:
    page = (done[0] / "tiny" / "views.html").read_text()
    assert page.count("<svg") == 1
    assert "teacher in every step" in page
    assert "<table>" in page
    assert not re.search(r'(src|href)="http', page)


def test_views_go_on_where_they_were_and_the_report_misses_nothing(done: tuple[Path, str]) -> None:
    folder, _ = done
    again = views(folder, "--views", "1,2,3")
    assert again.exit_code == 0, again.output
    assert "student views-3, seed 1: was finished" in again.output
    assert "student online, seed 0: was finished" in again.output
    assert "student views-2, seed 0: finished" in again.output
    assert "unfinished" not in write_report(folder / "tiny").read_text()


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("", "--views: must be whole numbers"),
        ("1,2.5", "--views: must be whole numbers"),
        ("0,2", "views: must be at least one number from 1 on"),
        ("2,2", "--views: must be whole numbers, each once"),
    ],
)
def test_views_refuse_numbers_before_anything_is_trained(
    tmp_path: Path, given: str, rule: str
) -> None:
    result = views(tmp_path, "--views", given)
    assert result.exit_code == 2
    assert rule in result.output
    assert not (tmp_path / "tiny").exists()


def test_views_need_an_augmentation(tmp_path: Path) -> None:
    result = views(tmp_path, "--views", "1,2", overrides=())
    assert result.exit_code == 2
    assert "views = 2 needs augment" in result.output
