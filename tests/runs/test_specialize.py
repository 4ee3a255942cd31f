"""Specialists as stages: what they make, how they go on, what is found and what is refused."""

import json
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import torch
from tiny import (
    ALONE,
    perform,
    perform_in_pieces,
    result_at,
    tasks,
    tiny_file,
    tiny_recipe,
    weights_sha256,
)
from typer.testing import CliRunner

from kd_ray.artefacts import audit_transfer_set, evaluate_checkpoint, inspect
from kd_ray.cli import app
from kd_ray.errors import CheckpointError, ConfigError, KdRayError
from kd_ray.pipeline import Run
from kd_ray.pipeline import run as run_pipeline
from kd_ray.report.page import report_page
from kd_ray.report.specialists import coverage_rows, specialists_sentences
from kd_ray.report.summary import Summary
from kd_ray.result import CLASS_GROUPS, Result, read_result
from kd_ray.runs import Finished, Task, perform_all, result_model
from kd_ray.runs.combine import open_joint
from kd_ray.runs.folder import read_run
from kd_ray.runs.group_classes import group_lines
from kd_ray.runs.inputs import Inputs
from kd_ray.training.progress import Epoch
from kd_ray.training.saved_model import load_model
from kd_ray.transfer_set import open_transfer_set, shards

OVERRIDES = (
    "specialists={ count = 3, classes_each = 4, train = { epochs = 2, lr = 0.01 } }",
    "transfer_set.views=2",
    "transfer_set.augment={ shift = 1 }",
)
JOINT = Path("specialists/transfer_set")


def run(runs: Path, *overrides: str, **arguments: object) -> Summary:
    recipe = tiny_recipe(*OVERRIDES, *overrides)
    return run_pipeline(recipe, runs=runs, local=True, **arguments)  # type: ignore[arg-type]


def the(stage: str, folder: Path, *overrides: str) -> Task:
    """The first task of a stage; of the students, that of the specialists."""
    todo = [t for t in tasks(tiny_recipe(*OVERRIDES, *overrides), folder) if t.stage.name == stage]
    return todo[-1] if stage == "distill" else todo[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a finished one; never changed."""
    runs = tmp_path_factory.mktemp("runs")
    run(runs)
    return runs


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def test_a_run_makes_groups_specialists_their_transfer_set_and_its_student(finished: Path):
    folder = finished / "tiny"
    found = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("result.json")}
    assert found == {
        "teacher/member-00",
        "transfer_set",
        "specialists/clusters",
        *(f"specialists/member-0{number}" for number in range(3)),
        "specialists/transfer_set",
        *(f"student/{variant}/seed-0" for variant in ("labels", "distilled", "specialized")),
    }


def test_the_specialists_student_learns_from_their_one_teacher_whichever_members_others_have(
    tmp_path: Path,
):
    members = ("teacher.members=2", "objective.members=2", "objective.member_weights=[3.0, 1.0]")
    summary = run(tmp_path, *members, "student.baselines=[]")
    names = [row.name for row in summary.rows]
    assert names == ["teacher", "ensemble", "distilled", "specialized"]
    result = result_at(tmp_path / "tiny/student/specialized/seed-0")
    joint = result_at(tmp_path / "tiny" / JOINT)
    assert result.parents["transfer_set"] == joint.sha256
    assert result.metrics["teacher_accuracy"] == joint.details["combined"]["accuracy"]


def test_a_run_again_finds_everything_and_comes_to_the_same(copied: Path):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    events: list[object] = []
    summary = run(copied, listener=lambda task, event: events.append(event))
    assert all(isinstance(event, Finished) and event.existed for event in events)
    assert summary.row("specialized")
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_the_joint_set_has_the_rows_of_the_first_and_other_logits(finished: Path):
    first = open_transfer_set(finished / "tiny" / "transfer_set")
    joint = open_transfer_set(finished / "tiny" / JOINT)
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(joint, split), getattr(first, split)
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.logits.shape == theirs.logits.shape
    assert not torch.allclose(joint.train.logits, first.train.logits, atol=0.1)
    plan, wanted = joint.manifest.plan, first.manifest.plan
    assert plan.teachers[0].sha256 != wanted.teachers[0].sha256
    right = (joint.test.logits[:, 0, 0].argmax(dim=1) == joint.test.labels).double().mean()
    assert plan.teachers[0].accuracy == pytest.approx(float(right), abs=0.01)  # float16 may tie
    assert plan.model_dump(exclude={"teachers"}) == wanted.model_dump(exclude={"teachers"})


def test_specialists_as_they_start_leave_every_row_as_the_generalist_has_it(
    finished: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(finished / "tiny", tmp_path / "run"))
    task = the("combine", folder)
    joint, _ = open_joint(task, ALONE, Inputs())
    generalist = load_model(result_model(folder / "teacher/member-00"), torch.device("cpu"))
    for saved in joint.specialists:  # as before training, and before the correction
        saved.model.network.load_state_dict(generalist.model.state_dict())  # type: ignore[union-attr]
        saved.model.correction.zero_()  # type: ignore[operator, union-attr]
    source = joint.source.test
    shard = next(s for s in shards(joint.source.manifest.plan) if s.split == "test")
    images = joint.rows[shard.split].rendered(torch.arange(shard.start, shard.stop)).images
    logits, _ = joint.logits(shard, images)
    before = source.logits[shard.start : shard.stop, 0].softmax(dim=2)
    torch.testing.assert_close(logits.softmax(dim=2), before, atol=2e-3, rtol=0.0)  # float16


@pytest.mark.parametrize("stage", ["specialize", "distill"])
def test_training_stopped_after_every_epoch_gives_the_weights_of_one_that_was_not(
    finished: Path, copied: Path, stage: str
):
    whole, broken = the(stage, finished / "tiny"), the(stage, copied / "tiny")
    shutil.rmtree(broken.folder)
    assert perform_in_pieces(broken).resumed_from == 2
    assert weights_sha256(whole.folder) == weights_sha256(broken.folder)


def test_a_joint_set_that_was_broken_off_goes_on_at_the_first_missing_file(
    finished: Path, copied: Path
):
    task = the("combine", copied / "tiny")
    for name in ("manifest.json", "result.json", "train-00001.parquet"):
        (task.folder / name).unlink()
    kept = (task.folder / "train-00000.parquet").stat().st_mtime_ns
    perform([task])
    assert (task.folder / "train-00000.parquet").stat().st_mtime_ns == kept
    theirs = read_result(finished / "tiny" / JOINT)
    ours = read_result(task.folder)
    assert ours is not None
    assert theirs is not None
    assert ours.sha256 == theirs.sha256
    assert ours.details["coverage"] == theirs.details["coverage"]


def test_a_run_left_in_the_middle_of_a_specialist_goes_on_there(copied: Path, finished: Path):
    shutil.rmtree(copied / "tiny/specialists/member-01")
    shutil.rmtree(copied / "tiny/specialists/transfer_set")
    shutil.rmtree(copied / "tiny/student/specialized")
    events = Run(tiny_recipe(*OVERRIDES), copied / "tiny", local=True).events()
    for task, event in events:
        if isinstance(event, Epoch):
            assert task.title == "specialist 1"
            break
    events.close()
    run(copied)
    for place in ("specialists/member-01", "student/specialized/seed-0"):
        assert weights_sha256(copied / "tiny" / place) == weights_sha256(finished / "tiny" / place)


def test_a_specialist_made_anew_is_not_passed_off_as_the_one_that_was_combined(copied: Path):
    shutil.rmtree(copied / "tiny/specialists/member-02")
    changed = "specialists.train.seed=7"
    for number in (0, 1):
        shutil.rmtree(copied / f"tiny/specialists/member-0{number}")
    with pytest.raises(CheckpointError, match="transfer_set: was made by another recipe"):
        run(copied, changed)


def test_specialists_on_a_finished_set_elsewhere_start_from_the_teacher_beside_it(
    finished: Path, tmp_path: Path
):
    path = f"transfer_set.path='{finished / 'tiny' / 'transfer_set'}'"
    run(tmp_path, path, "student.baselines=[]")
    assert not (tmp_path / "tiny" / "teacher").exists()
    place = Path("tiny/specialists/member-00")
    assert weights_sha256(tmp_path / place) == weights_sha256(finished / place)


def test_without_specialists_a_recipe_has_the_tasks_it_always_had(tmp_path: Path):
    stages = [task.stage.name for task in tasks(tiny_recipe(), tmp_path)]
    assert stages == ["teach", "label", "distill", "distill"]
    with pytest.raises(ConfigError, match="this table is needed to specialize"):
        Run(tiny_recipe(), tmp_path).tasks(("teach", "label", "specialize"))


# What is told


def test_the_results_figures_add_up(finished: Path):
    result = read_result(finished / "tiny" / JOINT)
    assert result is not None
    details = result.details
    rows, before, after = (
        sum(line[key] for line in details["coverage"])
        for key in ("rows", "correct_before", "correct_after")
    )
    assert rows == details["generalist"]["rows"]
    assert rows - before == details["generalist"]["errors"]
    assert rows - after == details["combined"]["errors"]
    assert sum(map(sum, details["confusion_before"])) == details["generalist"]["errors"]
    assert sum(map(sum, details["confusion_after"])) == details["combined"]["errors"]
    assert details["gradient"] < 1e-4
    assert coverage_rows(result)[-1]["images"] == "451"


def test_the_command_prints_groups_with_names_and_the_table_of_coverage(copied: Path):
    recipe = tiny_file(copied, *OVERRIDES)
    answer = CliRunner().invoke(app, ["specialize", str(recipe), "--local", "--runs", str(copied)])
    assert answer.exit_code == 0, answer.output
    assert "class groups: was finished, 3 specialists of 4 classes" in answer.stdout
    groups = read_result(copied / "tiny/specialists/clusters")
    assert groups is not None
    for line in group_lines(groups):
        assert line in answer.stdout
    assert "relative change %" in answer.stdout
    assert "Specialists: the generalist's" in answer.stdout
    assert "student of specialists" in answer.stdout


def test_group_lines_name_classes_and_overlaps():
    result = Result(
        stage="cluster",
        kind=CLASS_GROUPS,
        name="tiny",
        title="class groups",
        metrics={},
        seconds=0.1,
        **{
            "class_names": ["ant", "bee", "cat", "dog"],
            "of_class": [0, 0, 1, 1],
            "special": [[0, 1], [1, 2, 3]],
        },
    )
    assert list(group_lines(result)) == [
        "specialist 0: 2 classes (its group): ant bee",
        "  shares 1 with 1 (bee)",
        "specialist 1: 3 classes (2 of its group's 2, 1 others): bee cat dog",
        "  shares 1 with 0 (bee)",
    ]


def test_the_report_shows_specialists_and_the_share_that_their_student_keeps(finished: Path):
    folder = read_run(finished / "tiny")
    assert not folder.unfinished
    page = report_page(folder)
    assert "<h2>Specialists</h2>" in page
    assert page.count("Confusion between groups") == 4  # two plots, each with its label
    summary = run(finished)
    (first, second) = specialists_sentences(summary)
    assert first in unescape(page)
    assert second.startswith("Their student has ")


def test_a_specialist_is_inspected_and_evaluated_as_what_it_is(finished: Path):
    folder = finished / "tiny/specialists/member-00"
    result = read_result(folder)
    assert result is not None
    title, facts = inspect(folder)
    assert title.startswith("specialist ")
    assert facts["special classes"].startswith(", ".join(result.details["classes"]))
    assert evaluate_checkpoint(folder)["accuracy"] == result.metrics["accuracy"]


def test_groups_are_inspected_with_their_classes(finished: Path):
    title, facts = inspect(finished / "tiny/specialists/clusters")
    assert title.startswith("class groups ")
    assert "; shares " in facts["specialist 2"]


def test_the_joint_set_is_inspected_as_one_teachers(finished: Path):
    _, facts = inspect(finished / "tiny" / JOINT)
    assert facts["teacher 0"].startswith("specialists, test accuracy 0.")


# What is refused


def test_what_is_no_model_is_not_evaluated_and_a_joint_set_is_not_audited(finished: Path):
    with pytest.raises(CheckpointError, match="but is that of the class groups; name another"):
        evaluate_checkpoint(finished / "tiny/specialists/clusters")
    with pytest.raises(ConfigError, match="audit the transfer set that it was made from"):
        audit_transfer_set(finished / "tiny" / JOINT)


def refused(recipe: Path, runs: Path, command: str = "specialize") -> str:
    answer = CliRunner().invoke(app, [command, str(recipe), "--local", "--runs", str(runs)])
    assert answer.exit_code == 2, answer.output
    (line,) = answer.stderr.splitlines()
    return line


def test_a_recipe_without_specialists_is_answered_with_what_to_add(tmp_path: Path):
    answer = refused(tiny_file(tmp_path), tmp_path / "runs")
    assert "specialists: this table is needed to specialize, but the recipe has none" in answer
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("specialists={ count = 1 }", "count must be at least 2 where classes_each is left out"),
        ("specialists={ count = 3, generalist = 1 }", "must be a member of the 1 of teacher.mem"),
        ("specialists={ count = 3, classes_eahc = 4 }", "did you mean 'classes_each'"),
        ("specialists={ classes_each = 4 }", "specialists.count: this key is required"),
        (
            "specialists={ count = 3, train = { schedule = 'cosin' } }",
            "specialists.train.schedule.name: unknown schedule 'cosin'",
        ),
        (
            "specialists={ count = 3, train = { patience = 2 } }",
            "specialists.train: keep = ",
        ),
    ],
)
def test_specialists_that_cannot_be_are_answered_with_the_rule(
    tmp_path: Path, finished: Path, override: str, sentence: str
):
    runs = Path(shutil.copytree(finished, tmp_path / "runs"))
    shutil.rmtree(runs / "tiny" / "specialists")
    shutil.rmtree(runs / "tiny" / "student")
    assert sentence in refused(tiny_file(tmp_path, *OVERRIDES[1:], override), runs)
    assert not (runs / "tiny" / "specialists" / "clusters" / "result.json").exists()


def test_specialists_without_soft_targets_to_distill_are_refused():
    with pytest.raises(ConfigError, match=r"specialists: are distilled .* \[objective\] has none"):
        tiny_recipe(*OVERRIDES, "objective.soft_weight=0")


@pytest.mark.parametrize("trained_before", [False, True])
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("specialists={ count = 11 }", "there are 10 classes to make groups of, but got 11"),
        ("specialists={ count = 3, classes_each = 10 }", "must be less than the 10 classes"),
        (
            "transfer_set.classes=['0','1','2','4','5','6','7','8','9']",
            "groups need training rows of every class, but transfer_set.classes has none of '3'",
        ),
    ],
)
def test_specialists_that_the_classes_cannot_make_are_refused_before_anything_is_made_for_them(
    tmp_path: Path, finished: Path, override: str, sentence: str, trained_before: bool
):
    runs = tmp_path / "runs"
    if trained_before:
        shutil.copytree(finished / "tiny" / "teacher", runs / "tiny" / "teacher")
    before = set(runs.rglob("*.json"))
    assert sentence in refused(tiny_file(tmp_path, *OVERRIDES, override), runs)
    assert set(runs.rglob("*.json")) == before


def harm_classes(folder: Path) -> None:
    """Gives specialist 1 other classes than its group has."""
    path = next((folder / "specialists/member-01").glob("epoch-*/meta.json"))
    meta = json.loads(path.read_text())
    meta["special"] = [number for number in range(10) if number not in meta["special"]][:4]
    path.write_text(json.dumps(meta))


def harm_member(folder: Path) -> None:
    shutil.rmtree(folder / "specialists/member-01")


def harm_groups(folder: Path) -> None:
    shutil.rmtree(folder / "specialists/clusters")


def harm_generalist(folder: Path) -> None:
    shutil.rmtree(folder / "teacher")


@pytest.mark.parametrize(
    ("harm", "stage", "sentence"),
    [
        (harm_classes, "combine", "specialist 1 must have the classes of its group, but class 0"),
        (harm_member, "combine", "member-01: training must have finished"),
        (harm_groups, "specialize", "groups of classes must have been found"),
        (harm_generalist, "specialize", "member-00: training must have finished"),
    ],
)
def test_what_is_missing_or_of_other_classes_is_named(
    copied: Path, harm: Callable[[Path], None], stage: str, sentence: str
):
    task = the(stage, copied / "tiny")
    shutil.rmtree(task.folder)
    harm(copied / "tiny")
    with pytest.raises(KdRayError, match=sentence):
        list(perform_all([task], ALONE))
