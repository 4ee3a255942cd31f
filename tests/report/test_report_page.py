import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from tiny import result_at, tiny_recipe

from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.pipeline import run
from kd_ray.report.page import write_report
from kd_ray.report.plots import VARIABLES, Curve, curves, error_dots

VOID = {"meta", "br", "hr"}


class Outline(HTMLParser):
    """Tags, ids and text of a page; refuses a tag that is closed out of order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given[key] or "" for key in ("href", "src", "xlink:href") if key in given]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with validation rows and two seeds; tests copy it before they change it."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = tiny_recipe("data.validation=50", "train.seeds=[0, 1]")
    return run(recipe, runs=runs, local=True).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def outline(folder: Path) -> Outline:
    return Outline(write_report(folder).read_text(encoding="utf-8"))


def test_report_shows_the_figures_of_every_result(copied: Path) -> None:
    page = outline(copied)
    teacher = result_at(copied / "teacher/member-00")
    assert f"{100 * teacher.metrics['accuracy']:.2f}" in page.text
    assert f"{teacher.parameters:,}" in page.text
    for place in ("student/distilled/seed-0", "student/labels/seed-1", "teacher/member-00"):
        assert result_at(copied / place).weights_sha256 in page.text
    errors = [result_at(copied / f"student/distilled/seed-{s}").metrics["errors"] for s in (0, 1)]
    assert f"{sum(errors) / 2:,.1f} ± " in page.text
    cost = result_at(copied / "transfer_set")
    assert f"{cost.metrics['rows']:,}" in page.text
    assert cost.sha256 in page.text
    assert (copied / "recipe.toml").read_text() in page.text
    assert f"torch {teacher.versions['torch']}" in page.text
    assert "unfinished" not in page.text


def test_report_needs_nothing_but_its_own_file(copied: Path) -> None:
    page = outline(copied)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert all(link.startswith("#") for link in page.links)
    text = (copied / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"[a-z]+://[^\"\s<)]+", text))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "@import" not in text


def test_report_has_no_id_twice_and_every_reference_in_it(copied: Path) -> None:
    page = outline(copied)
    assert len(page.ids) == len(set(page.ids))
    text = (copied / "report.html").read_text(encoding="utf-8")
    clips = re.findall(r"url\(#([^)]+)\)", text)
    assert clips
    assert {*clips, *(link.removeprefix("#") for link in page.links)} <= set(page.ids)


def test_report_uses_only_colours_that_light_and_dark_both_have(copied: Path) -> None:
    outline(copied)
    text = (copied / "report.html").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z-]+)\)", text))
    assert {f"--{name}" for name in VARIABLES} - used <= {
        "--smoothing",
        "--softened-labels",
        "--specialized",
    }
    assert all(text.count(f"{name}: #") == 2 for name in used)
    assert "#01fe" not in text


def test_report_draws_curves_of_validation_only_where_there_are_some(copied: Path) -> None:
    assert "Validation accuracy" in outline(copied).text
    for file in list(copied.glob("*/**/result.json")):
        result = json.loads(file.read_text())
        for record in result.get("history", []):
            del record["accuracy"]
        file.write_text(json.dumps(result))
    page = outline(copied)
    assert "Validation accuracy" not in page.text
    assert "Training accuracy" in page.text


def test_report_escapes_whatever_a_run_or_a_class_is_called(finished: Path, tmp_path: Path) -> None:
    evil = "<b>&\"'$x^2$ [red] %s {0}"
    folder = Path(shutil.copytree(finished, tmp_path / evil))
    recipe = folder / "recipe.toml"
    text = recipe.read_text().replace(
        "[data]\n", "[data]\nclasses = ['<script>alert(1)</script>', '</pre>']\n"
    )
    recipe.write_text(text)
    page = outline(folder)
    assert page.tags["script"] == page.tags["b"] == 0
    assert evil in page.text
    assert text in page.text


def test_report_of_an_unfinished_run_names_what_is_missing(copied: Path) -> None:
    (copied / "student/distilled/seed-1/result.json").unlink()
    shutil.rmtree(copied / "student/labels/seed-1")
    page = outline(copied)
    assert "unfinished" in page.text
    assert "student distilled, seed 1 (2 of 2 epochs)" in page.text
    assert "student labels, seed 1" in page.text
    assert "teacher 0 (" not in page.text


def test_report_of_an_unfinished_training_still_has_its_curve(copied: Path) -> None:
    for seed in (0, 1):
        (copied / f"student/distilled/seed-{seed}/result.json").unlink()
    page = outline(copied)
    assert "Training loss, student distilled" in page.text
    shutil.rmtree(copied / "student/distilled")
    assert "Training loss, student distilled" not in outline(copied).text


@pytest.mark.parametrize("kept", ["teacher/member-00", "transfer_set", "student/distilled/seed-0"])
def test_report_of_a_single_result_is_a_page(copied: Path, kept: str) -> None:
    for file in list(copied.glob("*/**/result.json")):
        if file.parent != copied / kept:
            shutil.rmtree(file.parent)
    page = outline(copied)
    assert result_at(copied / kept).title in page.text


def test_report_keeps_results_that_the_recipe_no_longer_asks_for(copied: Path) -> None:
    recipe = copied / "recipe.toml"
    recipe.write_text(re.sub(r"seeds = \[[^]]*\]", "seeds = [0]", recipe.read_text()))
    page = outline(copied)
    assert "unfinished" not in page.text
    assert result_at(copied / "student/distilled/seed-1").weights_sha256 in page.text


def test_report_written_twice_is_the_same_and_leaves_no_draft(copied: Path) -> None:
    settings = dict(matplotlib.rcParams)
    first = write_report(copied).read_bytes()
    names = {path.name for path in copied.iterdir()}
    assert write_report(copied).read_bytes() == first
    assert {path.name for path in copied.iterdir()} == names
    assert dict(matplotlib.rcParams) == settings


def test_report_of_a_given_transfer_set_needs_no_teacher(copied: Path) -> None:
    shutil.rmtree(copied / "teacher")
    shutil.rmtree(copied / "transfer_set")
    recipe = copied / "recipe.toml"
    text = recipe.read_text().replace("[transfer_set]\n", '[transfer_set]\npath = "else/where"\n')
    recipe.write_text(text)
    page = outline(copied)
    assert "unfinished" not in page.text
    assert "Given: else/where" in page.text


def test_report_refuses_a_path_that_is_no_run_in_one_sentence(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: must be a run folder, but is no folder;"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no recipe\.toml"):
        write_report(copied / "teacher")
    for file in list(copied.glob("*/**/result.json")):
        file.unlink()
    with pytest.raises(ConfigError, match=r"needs something finished, but there is no result\.js"):
        write_report(copied)
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"status": "finished"}', '{"status": "finished", "stage": "teach"}']
)
def test_report_names_a_result_that_cannot_be_read(copied: Path, text: str) -> None:
    broken = copied / "teacher/member-00/result.json"
    broken.write_text(text)
    with pytest.raises(CheckpointError, match=r"member-00/result\.json: must be as it was written"):
        write_report(copied)


def test_error_dots_has_a_dot_for_every_seed_and_a_line_for_every_teacher() -> None:
    plot = error_dots("errors", {"distilled": [74, 74, 80]}, [67, 71])
    assert len(re.findall(r'<use [^>]*style="fill: var\(--distilled\)', plot)) == 3
    assert len(re.findall(r"stroke-dasharray[^>]*stroke: var\(--teacher\)", plot)) == 2
    assert "teachers, mean 69.0" in plot
    places = re.findall(r'<use [^>]*y="([0-9.]+)" style="fill: var\(--distilled\)', plot)
    assert len(set(places)) == 3  # equal errors do not hide each other


def test_curves_has_a_line_for_every_training_and_a_dot_for_a_single_epoch() -> None:
    line = Curve("labels", [1, 2, 3], [3.0, 2.0, 1.0])
    plot = curves("loss", [line, line, Curve("distilled", [1], [2.0])])
    assert len(re.findall(r"<path[^>]*stroke: var\(--labels\)", plot)) == 2
    assert len(re.findall(r'<use [^>]*style="fill: var\(--distilled\)', plot)) == 1


def test_page_of_a_low_bit_run_shows_each_layers_bits_and_activity(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "student.model={ name = 'convnet', groups = [[4], [8]] }",
        "student.quantizer={ weight_bits = 2, activation_bits = 1 }",
    )
    page = Outline(write_report(run(recipe, runs=tmp_path, local=True).folder).read_text())
    assert "Few bits" in page.text
    assert "W 32 A 8" in page.text  # the first layer's inputs are pixels
    assert "W 2 A 1" in page.text
    assert page.text.count("Activations that are on") == 2  # on labels, and distilled
    assert "Dead layers" not in page.text
