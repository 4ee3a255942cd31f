"""The lessons say what was measured: their numbers, their plots, and the command that has them."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny import refused
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.lessons.figures import plot, read_figures, write_figures
from kd_ray.lessons.page import HOME, lesson_page
from kd_ray.lessons.plan import LESSONS
from kd_ray.lessons.rerun import lessons_study
from kd_ray.report.picture import stand_alone

NUMBER = re.compile(r"\d+(?:\.\d+)?")
FORMULA = re.compile(r"```.*?```|`[^`]*`|T\^2|T²", re.DOTALL)
lessons = pytest.mark.parametrize("name", LESSONS)


def prose(name: str) -> str:
    """The text of a page without its commands and formulas."""
    return FORMULA.sub("", (HOME / f"{name}.md").read_text(encoding="utf-8"))


@lessons
def test_lesson_gives_no_number_that_is_not_in_its_table(name: str) -> None:
    known = {
        number
        for line in read_figures(HOME / f"{name}.csv")
        for number in (
            line.place,
            line.mean,
            line.spread,
            line.seeds,
            *NUMBER.findall(line.panel + line.line),
        )
        if number
    }
    for number in NUMBER.findall(prose(name)):
        digits = len(number.partition(".")[2])
        assert any(f"{float(one):.{digits}f}" == number for one in known), number


@lessons
def test_plot_of_a_lesson_is_drawn_from_its_table_alone(name: str) -> None:
    drawn = stand_alone(plot(LESSONS[name], read_figures(HOME / f"{name}.csv")))
    assert drawn == (HOME / f"{name}.svg").read_text(encoding="utf-8")


@lessons
def test_table_of_a_lesson_has_every_point_over_three_seeds(name: str, tmp_path: Path) -> None:
    lines = read_figures(HOME / f"{name}.csv")
    wanted = [(p.panel, p.line, p.colour) for p in LESSONS[name].points]
    assert [(m.panel, m.line, m.colour) for m in lines] == wanted
    seeds = {m.line: int(m.seeds) for m in lines}
    assert all(count == 3 for line, count in seeds.items() if line != "teacher"), seeds
    again = write_figures(tmp_path / "again.csv", lines)
    assert again.read_bytes() == (HOME / f"{name}.csv").read_bytes()


@lessons
def test_page_of_a_lesson_is_short_teaches_and_needs_no_other_file(name: str) -> None:
    text = (HOME / f"{name}.md").read_text(encoding="utf-8")
    assert 25 <= text.count("\n") <= 50
    assert text.startswith(f"# {LESSONS[name].title}\n")
    for heading in ("## What to try first", "## What to look at", "## When it does not help"):
        assert heading in text
    page = lesson_page(name)
    assert page.count("<svg") == 1
    assert "<img" not in page
    assert not re.search(r'(src|href)="', page.replace("xlink:href", ""))


def test_explain_lists_the_lessons_and_writes_the_page_of_one(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["explain"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(LESSONS)
    written = CliRunner().invoke(app, ["explain", "temperature", "--to", str(tmp_path)])
    assert written.stdout == f"{tmp_path / 'temperature.html'}: written\n"
    assert (tmp_path / "temperature.html").read_text(encoding="utf-8").count("</html>") == 1


def test_explain_refuses_a_lesson_that_there_is_not_and_offers_a_near_one(tmp_path: Path) -> None:
    for more in ((), ("--rerun", "--runs", tmp_path)):
        said = refused("explain", "temprature", *more)
        assert said.startswith("kd-ray: unknown lesson 'temprature'; did you mean 'temperature'?")
    said = refused("explain", "--rerun", "--runs", tmp_path, "--set", "name=mine")
    assert "name tells the experiments' runs apart" in said


def test_every_lesson_has_runs_whose_recipes_are_read_and_points_that_they_have() -> None:
    study = lessons_study(runs="runs", local=True)
    names = [part.name for part in study.parts]
    assert len(names) == len(set(names))
    for lesson in LESSONS.values():
        assert {run for point in lesson.points for run in point.runs} <= set(names)
    students = {
        part.name: {task.variant for task in part.run.tasks(part.stages)} for part in study.parts
    }
    for lesson in LESSONS.values():
        for point in lesson.points:
            assert all(point.variant in students[run] for run in point.runs), point


def test_a_lesson_measured_anew_has_its_table_and_plot_in_the_folder_that_was_named(
    tmp_path: Path,
) -> None:
    short = ["data.fraction=0.1", "train.epochs=1", "teacher.train.epochs=1", "resources.fuse=1"]
    sets = [text for each in short for text in ("--set", each)]
    where = ["--local", "--runs", str(tmp_path), "--to", str(tmp_path / "here")]
    answer = CliRunner().invoke(app, ["explain", "soft-weight", "--rerun", *where, *sets])
    assert answer.exit_code == 0, answer.output
    lines = read_figures(tmp_path / "here" / "soft-weight.csv")
    assert len(lines) == len(LESSONS["soft-weight"].points)
    svg = (tmp_path / "here" / "soft-weight.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert f"{tmp_path / 'here' / 'soft-weight.svg'}: written" in answer.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("temperature", "--set", "train.epochs=3"),
            "how to train go with --rerun only",
        ),
        (("temperature", "--runs", "elsewhere"), "how to train go with --rerun only"),
        (("--to", "here"), "name a lesson"),
        (("--rerun", "--open"), "--open and --to are for the page of one lesson"),
    ],
)
def test_explain_ignores_no_option(options: tuple[str, ...], words: str) -> None:
    assert words in refused("explain", *options)
