"""All of the experiments on an eighth of the digits: one teacher, ordinary runs, one table."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import generator, tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app
from kd_ray.cli.studies import study_with_display
from kd_ray.errors import ConfigError, KdRayError, UnknownNameError
from kd_ray.files import TEMPORARY, sha256_of
from kd_ray.pipeline import open_recipe
from kd_ray.report.page import write_report
from kd_ray.runs import Finished
from kd_ray.studies.paper import EXPERIMENTS, SCALES, Scale, reproduction
from kd_ray.studies.paper.bias import corrections
from kd_ray.studies.paper.experiments import experiments
from kd_ray.studies.paper.parts import part_recipe, parts
from kd_ray.studies.study import PartFailed

DIGITS = [str(number) for number in range(10)]
TINY = (
    *("student.model.hidden=[8, 8]", "student.model.dropout=[0.0, 0.0, 0.0]"),
    *("objective.temperature=20", "train.seeds=[0, 1]", "train.epochs=1", "teacher.train.epochs=1"),
)


def tiny_scale(folder: Path) -> Scale:
    base = str(tiny_file(folder, *TINY, "teacher.model.dropout=[0.0, 0.0]"))
    return Scale("tiny-paper", base, widths=(8, 4), members=2, few=0.5, repeated=(("7s-8s", 2.0),))


def shown(scale: Scale, runs: Path, *only: str) -> None:
    """The study as the command performs it."""
    study_with_display(reproduction(scale, runs=runs, only=only, local=True), str(runs))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scale, Path]:
    """A finished reproduction, and where its runs lie."""
    folder = tmp_path_factory.mktemp("reproduce")
    scale = tiny_scale(folder)
    shown(scale, folder)
    return scale, folder


def results_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "tiny-paper" / "results.json").read_bytes()))


def values_of(found: dict[str, Any]) -> dict[str, list[float]]:
    return {
        f"{name}: {line['about']}": line["values"]
        for name, experiment in found["experiments"].items()
        for line in experiment["figures"]
    }


def test_every_experiment_is_finished_with_a_figure_for_each_seed(
    done: tuple[Scale, Path],
) -> None:
    found = results_of(done[1])
    assert found["status"] == "finished"
    assert list(found["experiments"]) == list(EXPERIMENTS)
    for experiment in found["experiments"].values():
        assert experiment["status"] == "finished"
        for line in experiment["figures"]:
            seeds = 2 if line["variant"] else len(line["values"])
            assert len(line["values"]) == seeds
    papers = [line["paper"] for line in found["experiments"]["no-3s"]["figures"]]
    assert papers == [206, 133, 86.8, None, None, None, None, 3.5, 109, 14, 98.6]


def test_one_teacher_and_one_transfer_set_are_shared(done: tuple[Scale, Path]) -> None:
    folder = done[1] / "tiny-paper"
    taught = {path.parent.parent.name for path in folder.glob("*/teacher/member-00")}
    assert taught == {"width-8", "ensemble"}
    labelled = {path.parent.parent.name for path in folder.glob("*/transfer_set/manifest.json")}
    assert labelled == {"width-8", "no-3s", "7s-8s", "3-percent", "ensemble", "unlabelled"}


def test_parts_are_ordinary_runs_with_their_own_reports(done: tuple[Scale, Path]) -> None:
    for part in ("width-4", "no-3s"):  # without a set of its own, without a teacher of its own
        page = write_report(done[1] / "tiny-paper" / part).read_text()
        assert "unfinished" not in page


def test_the_ensembles_net_and_its_control_are_figures_of_their_own_students(
    done: tuple[Scale, Path],
) -> None:
    found = values_of(results_of(done[1]))
    for about, part in (
        ("one net distilled from it", "ensemble"),
        ("the same net distilled from the first member alone", "one-member"),
    ):
        students = sorted((done[1] / "tiny-paper" / part).glob("student/distilled/*/result.json"))
        errors = [json.loads(file.read_bytes())["metrics"]["errors"] for file in students]
        assert found[f"ensemble: {about}: errors"] == errors
        base, top = (
            sum(values) / len(values)
            for values in (
                found["ensemble: one member: right"],
                found["ensemble: ensemble of 2: right"],
            )
        )
        kept = found.get(f"ensemble: of the ensemble's gain over a member, kept by {about}", [])
        shares = [100 * (r - base) / (top - base) for r in found[f"ensemble: {about}: right"]]
        assert kept == (pytest.approx(shares) if top > base else [])


def test_the_page_has_every_table_and_the_plot_over_temperature(done: tuple[Scale, Path]) -> None:
    page = (done[1] / "tiny-paper" / "report.html").read_text()
    for title, _ in EXPERIMENTS.values():
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 1
    assert "tuned on the test split" in page
    assert "Unfinished" not in page
    assert not re.search(r'(src|href)="http', page)


def files_of(folder: Path) -> dict[str, str]:
    patterns = ("*/teacher/**/*", "*/student/**/*", "*/transfer_set/*", "*/biases.json")
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return {str(path): f"{path.stat().st_mtime_ns} {sha256_of(path)}" for path in found}


def test_a_second_time_nothing_is_made_again(done: tuple[Scale, Path]) -> None:
    scale, folder = done
    before, values = files_of(folder / "tiny-paper"), values_of(results_of(folder))
    assert len(before) > 100
    (folder / "tiny-paper" / f"{TEMPORARY}1-report.html").write_text("half, of a killed process")
    work = reproduction(scale, runs=folder, local=True)
    events = [event[1] for event in work.events() if isinstance(event, tuple)]
    finished = [event for event in events if isinstance(event, Finished)]
    assert len(finished) > 20
    assert all(event.existed for event in finished)
    assert not work.failures
    assert files_of(folder / "tiny-paper") == before
    assert values_of(results_of(folder)) == values
    assert not list((folder / "tiny-paper").glob(f"{TEMPORARY}*"))


def test_interrupted_anywhere_it_goes_on_and_ends_with_the_same_figures(
    done: tuple[Scale, Path], tmp_path: Path
) -> None:
    scale, folder = done
    for stop in (2, 40, 90, 10_000):
        with closing(reproduction(scale, runs=tmp_path, only=NEEDED, local=True).events()) as some:
            for number, _ in enumerate(some):
                if number == stop:
                    break
    values = values_of(results_of(tmp_path))
    undisturbed = values_of(results_of(folder))
    assert values
    assert values == {about: undisturbed[about] for about in values}


NEEDED = ["no-3s", "ensemble"]


def test_one_experiment_alone_trains_no_student_of_another(
    done: tuple[Scale, Path], tmp_path: Path
) -> None:
    scale, _ = done
    shown(scale, tmp_path, "no-3s")
    folder = tmp_path / "tiny-paper"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["no-3s", "width-8"]
    assert not (folder / "width-8" / "student").exists()
    assert list(results_of(tmp_path)["experiments"]) == ["no-3s"]
    assert results_of(tmp_path)["status"] == "finished"


def test_what_an_earlier_call_has_finished_stays_in_the_table(
    done: tuple[Scale, Path], tmp_path: Path
) -> None:
    scale, _ = done
    for name in ("no-3s", "7s-8s"):
        shown(scale, tmp_path, name)
    assert list(results_of(tmp_path)["experiments"]) == ["no-3s", "7s-8s"]


def broken(folder: Path, scale: Scale, part: str) -> Iterator[PartFailed]:
    """Failures where a student's result cannot be read."""
    student = folder / "tiny-paper" / part / "student" / "distilled" / "seed-0"
    student.mkdir(parents=True)
    (student / "result.json").write_text("{")
    for event in reproduction(scale, runs=folder, only=["no-3s", "7s-8s"], local=True).events():
        if isinstance(event, PartFailed):
            yield event


def test_a_failed_part_is_named_and_the_others_are_finished(
    done: tuple[Scale, Path], tmp_path: Path
) -> None:
    scale, _ = done
    (failure,) = broken(tmp_path, scale, "no-3s")
    assert failure.part == "no-3s"
    assert failure.questions == ("no-3s",)
    found = results_of(tmp_path)
    assert found["status"] == "unfinished"
    assert found["unfinished"] == ["no-3s"]
    assert "must be as it was written" in found["failed"]["no-3s"]
    assert found["experiments"]["7s-8s"]["status"] == "finished"
    assert "no-3s: failed" in (tmp_path / "tiny-paper" / "report.html").read_text()
    with pytest.raises(KdRayError, match=r"1 of 3 parts failed.*no-3s \(of no-3s\)"):
        shown(scale, tmp_path, "no-3s", "7s-8s")


def test_without_its_teacher_every_part_is_named(done: tuple[Scale, Path], tmp_path: Path) -> None:
    scale, _ = done
    result = tmp_path / "tiny-paper" / "width-8" / "teacher" / "member-00" / "result.json"
    result.parent.mkdir(parents=True)
    result.write_text("{")
    work = reproduction(scale, runs=tmp_path, only=["7s-8s", "unlabelled"], local=True)
    failures = [event for event in work.events() if isinstance(event, PartFailed)]
    assert [failure.part for failure in failures] == ["width-8", "7s-8s", "unlabelled"]
    assert all("member-00/result.json" in failure.reason for failure in failures)


@pytest.mark.parametrize("override", ["name=mine", "teacher.path=x", "student.baselines=[]"])
def test_keys_that_tell_the_parts_apart_cannot_be_set(
    done: tuple[Scale, Path], override: str
) -> None:
    with pytest.raises(ConfigError, match="tells the experiments' runs apart"):
        reproduction(done[0], [override])


def test_an_unknown_experiment_is_answered_with_the_known_ones(done: tuple[Scale, Path]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown experiment 'no-4s'; did you mean 'no-3s'"):
        reproduction(done[0], only=["no-4s"])


def test_an_unknown_dataset_is_answered_in_a_sentence() -> None:
    result = CliRunner().invoke(app, ["reproduce", "svhn"])
    assert result.exit_code == 2
    assert "unknown reproduction 'svhn'; known: losses, mnist, speech" in result.output


@pytest.mark.parametrize("name", SCALES)
def test_every_part_of_the_shipped_scales_is_a_whole_recipe(name: str) -> None:
    scale = SCALES[name]
    found = parts(scale, DIGITS)
    folders = {part.name: f"/runs/{part.name}" for part in found}
    recipes = {p.name: part_recipe(scale, p, ["labels"], [], folders) for p in found}
    first = recipes[scale.first]
    for part in found:
        recipe = recipes[part.name]
        assert recipe.name == part.name
        alone = {"members": 1} if part.name == "one-member" else {}
        assert recipe.objective == first.objective.model_copy(update=alone)
        assert recipe.train.seeds == first.train.seeds
        if part.teacher_of is not None:
            assert recipe.teacher is not None
            assert recipe.teacher.path == folders[part.teacher_of]
    teacher = recipes["ensemble"].teacher
    assert teacher is not None
    assert (teacher.members, teacher.path) == (10, None)
    assert teacher.model == first.student.model
    assert teacher.train.epochs == first.train.epochs // 2
    assert teacher.train.augment.is_identity
    assert (teacher.train.schedule.name, teacher.train.optimizer) == ("constant", "adam")
    one = recipes["one-member"].teacher
    assert one is not None
    assert one.model_copy(update={"path": None}) == teacher
    students = experiments(scale, first, found)
    assert {part for e in students for part in e.students} == {part.name for part in found}


def test_students_at_another_temperature_than_the_papers_are_named_by_their_own() -> None:
    scale = SCALES["mnist"]
    recipe = open_recipe(scale.base, ["objective.temperature=4"])
    every = {e.name: e for e in experiments(scale, recipe, parts(scale, DIGITS))}
    warm = {line.variant: line.about for line in every["temperature"].lines if line.temperature}
    assert warm["distilled"].endswith("T = 4")
    assert warm["T20"].endswith("T = 20")
    (own,) = (e.about for e in every["baselines"].lines[:-1] if e.variant == "distilled")
    assert own == "distilled at T = 4"


def test_full_size_has_three_seeds_and_the_shipped_teacher_with_the_papers_views() -> None:
    scale = SCALES["mnist"]
    first = parts(scale, DIGITS)[0]
    recipe = part_recipe(scale, first, ["labels"], [], {})
    assert recipe.train.seeds == [0, 1, 2]
    shipped = open_recipe("mnist", ["teacher.train.augment={ shift = 2 }"])
    assert (recipe.teacher, recipe.transfer_set, recipe.data) == (
        *(shipped.teacher, shipped.transfer_set, shipped.data),
    )
    assert recipe.student.model == shipped.student.model


def test_corrections_use_of_the_training_labels_how_often_classes_come_and_nothing_else() -> None:
    train = 3 * torch.randn(500, 4, generator=generator(1))
    test = 3 * torch.randn(200, 4, generator=generator(2))
    labels, test_labels = train.argmax(dim=1), test.argmax(dim=1)
    train[:, 2] -= 4
    test[:, 2] -= 4
    found = corrections(train, labels, test, test_labels, [2])
    shuffled = labels[torch.randperm(500, generator=generator(3))]
    assert corrections(train, shuffled, test, test_labels, [2]) == found
    # Nor do the labels of the test split move the correction by mass.
    other = corrections(train, labels, test, (test_labels + 1) % 4, [2])
    assert other["mass"]["biases"] == found["mass"]["biases"]
    bias = torch.tensor([0, 0, found["mass"]["biases"][0], 0], dtype=torch.float64)
    share = float((labels == 2).double().mean())
    mass = (train.double() + bias).softmax(dim=1).mean(dim=0)
    assert float(mass[2]) == pytest.approx(share, abs=1e-4)
    assert found["test"]["errors"] <= min(found["none"]["errors"], found["mass"]["errors"])
    assert found["test"]["errors"] == 0
    assert found["none"]["class_errors"] > found["mass"]["class_errors"]
