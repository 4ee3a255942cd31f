"""Several teachers: their weights, subsets of them, their gain, and teachers of another run."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import tiny_recipe, weights_sha256

from kd_ray import audit_transfer_set, run
from kd_ray.config import Objective
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.report.summary import about_cost, summarize_results
from kd_ray.result import STUDENT, TEACHER, TRANSFER_SET, Result
from kd_ray.training.losses import MEANS, Ensemble, soft_targets
from kd_ray.training.student import ensemble_of
from kd_ray.transfer_set import read_manifest

means = st.sampled_from(sorted(MEANS))
positive = st.floats(0.1, 10)
QUICK = ("train.epochs=1", "teacher.train.epochs=1", "student.baselines=[]")


def logits(members: int) -> torch.Tensor:
    """`(4, M, 5)`, the same numbers in every test."""
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(4, members, 5, generator=generator, dtype=torch.float64)


def weighted(mean: str, **options: Any) -> Ensemble:
    return ensemble_of(Objective(ensemble=mean, **options), 3)  # type: ignore[arg-type]


@settings(deadline=None)
@given(means, st.floats(0.5, 20), positive)
def test_equal_weights_are_no_weights_whatever_their_sum(mean: str, t: float, weight: float):
    found = soft_targets(logits(3), t, weighted(mean, member_weights=[weight] * 3))
    torch.testing.assert_close(found, soft_targets(logits(3), t, Ensemble(mean)))


@settings(deadline=None)
@given(means, st.floats(0.5, 20), positive, positive)
def test_a_member_of_weight_0_is_as_if_it_were_not_there(mean: str, t: float, a: float, b: float):
    found = soft_targets(logits(3), t, weighted(mean, member_weights=[a, 0, b]))
    left = weighted(mean, members=[0, 2], member_weights=[a, b])
    torch.testing.assert_close(found, soft_targets(logits(3), t, left))
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(4, dtype=torch.float64))


@given(means)
def test_one_member_alone_is_that_teacher(mean: str):
    found = soft_targets(logits(3), 2.0, weighted(mean, members=[1]))
    torch.testing.assert_close(found, (logits(3)[:, 1] / 2).softmax(-1))


@given(means)
def test_a_number_of_members_are_the_first_so_many(mean: str):
    assert weighted(mean, members=2) == weighted(mean, members=[0, 1])


def test_weights_follow_the_order_in_which_the_members_are_named():
    assert weighted("arithmetic", members=[2, 0], member_weights=[1, 3]).weights == (0.75, 0, 0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": [0, 3]}, "member 3 is not"),
        ({"members": 4}, "member 3 is not"),
        ({"member_weights": [1.0, 2.0]}, "one for each of the 3 members, but there are 2"),
    ],
)
def test_members_that_the_set_has_not_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        weighted("arithmetic", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"member_weights": [0.0, 0.0]}, "positive and finite sum"),
        ({"member_weights": [1.0, -1.0]}, "greater than or equal to 0"),
        ({"members": []}, "at least 1 item"),
        ({"members": [1, 1]}, "each value once"),
        ({"members": 0}, "greater than or equal to 1"),
        ({"members": [0, 1], "member_weights": [1.0]}, "one for each of the 2 members"),
    ],
)
def test_weights_and_subsets_that_mean_nothing_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        Objective(**options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three teachers, two of one kind and one of another."""
    folder = tmp_path_factory.mktemp("ensemble")
    run(three_teachers(), runs=folder, local=True)
    return folder


def three_teachers(*overrides: str) -> Any:
    models = (
        "teacher={ models = [{ name = 'mlp', hidden = [16] }, { name = 'mlp', hidden = [9] }] }"
    )
    return tiny_recipe(models, "teacher.members=3", *QUICK, *overrides)


def test_members_have_their_own_models_in_turn(runs: Path):
    teachers = read_manifest(runs / "tiny" / "transfer_set").plan.teachers
    assert [teacher.model["hidden"] for teacher in teachers] == [[16], [9], [16]]
    assert len({teacher.sha256 for teacher in teachers}) == 3


def test_the_ensemble_has_a_row_of_its_own_and_the_cost_is_that_of_all(runs: Path):
    summary = run(three_teachers(), runs=runs, local=True)
    assert [row.name for row in summary.rows] == ["teacher", "ensemble", "distilled"]
    ensemble, members = summary.row("ensemble"), summary.row("teacher")
    assert ensemble is not None
    assert members is not None
    assert 0 < ensemble.metrics["accuracy"].mean <= 1
    assert ensemble.seconds.mean == pytest.approx(sum(members.seconds.values))
    assert f"teaching {ensemble.seconds.mean:,.1f} s" in about_cost(summary.results)


def test_a_run_with_the_teachers_of_another_trains_none_and_labels_the_same_bytes(runs: Path):
    seen: list[str] = []
    recipe = three_teachers("name='second'", f"teacher.path='{runs / 'tiny'}'", "train.seeds=[5]")
    run(recipe, runs=runs, local=True, listener=lambda task, event: seen.append(task.title))
    assert not (runs / "second" / "teacher").exists()
    assert {"teacher 0", "teacher 2", "transfer set", "student distilled, seed 5"} <= set(seen)
    first, second = (read_manifest(runs / name / "transfer_set") for name in ("tiny", "second"))
    assert first.files == second.files
    assert audit_transfer_set(runs / "second" / "transfer_set").passed


def test_teachers_that_are_not_there_or_are_others_are_refused(runs: Path, tmp_path: Path):
    elsewhere = f"teacher.path='{runs / 'tiny'}'"
    with pytest.raises(ConfigError, match="but teacher 3 has not finished there"):
        run(three_teachers(elsewhere, "teacher.members=4"), runs=tmp_path, local=True)
    with pytest.raises(CheckpointError, match=r"teacher\.train\.lr is 0\.001 there and 0\.5 here"):
        run(three_teachers(elsewhere, "teacher.train.lr=0.5"), runs=tmp_path, local=True)


def test_a_recipe_has_one_teacher_model_or_several_but_no_more_than_members():
    with pytest.raises(ConfigError, match="either model or models is needed"):
        tiny_recipe("teacher.models=['mlp']")
    with pytest.raises(ConfigError, match="2 models, but there are 1 members"):
        three_teachers("teacher.members=1")
    with pytest.raises(ConfigError, match=r"teacher\.models\.1\.name: unknown model 'mpl'"):
        tiny_recipe("teacher={ members = 2, models = ['convnet', 'mpl'] }")


def results(member: float, ensemble: float, distilled: float) -> list[Result]:
    common: dict[str, Any] = {
        "name": "tiny",
        "title": "t",
        "parameters": 1,
        "seconds": 2.0,
        "images_per_s": 10.0,
        "epochs": 4,
    }
    metrics = {"accuracy": member, "errors": 1}
    teach = Result(**common, stage="teach", kind=TEACHER, metrics=metrics)
    metrics = {
        "accuracy": distilled,
        "errors": 1,
        "teacher_accuracy": ensemble,
        "teacher_errors": 1,
    }
    student = Result(**common, stage="distill", kind=STUDENT, variant="distilled", metrics=metrics)
    return [teach, teach, student]


@given(st.floats(0.1, 0.5), st.floats(0.6, 0.9), st.floats(0.01, 1))
def test_the_share_of_the_gain_that_is_kept_is_where_the_student_lies_between_the_two(
    member: float, ensemble: float, share: float
):
    distilled = member + share * (ensemble - member)
    summary = summarize_results(Path("run"), results(member, ensemble, distilled))
    assert summary.gain_kept == pytest.approx(share)
    # Half a percent may be rounded either way.
    told = re.search(r"keeps (\d+) %", summary.about_gain())
    assert told is not None
    assert abs(float(told[1]) - 100 * share) <= 0.5 + 1e-6


def test_a_student_that_is_no_better_than_a_member_keeps_nothing():
    summary = summarize_results(Path("run"), results(0.5, 0.6, 0.4))
    assert "no better than one member" in summary.about_gain()
    assert summarize_results(Path("run"), results(0.6, 0.5, 0.6)).gain_kept is None


@given(st.floats(1, 100), st.floats(0.01, 100))
def test_the_set_has_paid_for_itself_with_the_first_student_that_saves_what_labels_cost(
    labelled_s: float, rate: float
):
    label = Result(
        stage="label",
        kind=TRANSFER_SET,
        name="tiny",
        title="transfer set",
        seconds=labelled_s,
        images_per_s=rate,
        metrics={"train_rows": 50},
    )
    saved = 4 * 50 / rate
    sentence = about_cost([*results(0.1, 0.2, 0.2), label])
    assert f"{saved:,.1f} s more if it ran" in sentence
    found = re.search(r"with ([\d,]+) students", sentence)
    students = int(found[1].replace(",", "")) if found else 1
    assert students * saved >= labelled_s
    assert students == 1 or (students - 1) * saved < labelled_s


def test_the_distilled_students_weights_depend_on_the_weights_of_the_members(
    runs: Path, tmp_path: Path
):
    found = set()
    for weights in ([1.0, 1.0, 1.0], [1.0, 0.0, 0.0]):
        path = f"transfer_set.path='{runs / 'tiny' / 'transfer_set'}'"
        recipe = three_teachers(
            path, f"name='w{weights[1]:.0f}'", f"objective.member_weights={weights}"
        )
        run(recipe, runs=tmp_path, stages=["distill"], local=True)
        found.add(weights_sha256(tmp_path / recipe.name / "student" / "distilled" / "seed-0"))
    assert len(found) == 2
