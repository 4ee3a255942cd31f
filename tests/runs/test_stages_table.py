"""A stage that this test alone knows is one record in the table, and everything else follows."""

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_file, tiny_recipe, weights_sha256
from typer.testing import CliRunner

from kd_ray.artefacts import evaluate_checkpoint, inspect
from kd_ray.cli import app
from kd_ray.config import Train
from kd_ray.errors import CheckpointError
from kd_ray.models import build_model
from kd_ray.pipeline import Run
from kd_ray.report.page import report_page
from kd_ray.result import Result, read_result
from kd_ray.runs import STAGES, Event, Finished, Inputs, Request, Stage, Task
from kd_ray.runs.folder import read_run
from kd_ray.runs.train import Setup, description, train
from kd_ray.training.batch_loss import label_objective
from kd_ray.training.checkpoint import ModelInput
from kd_ray.training.feed import feed_of
from kd_ray.training.loop import fit
from kd_ray.training.progress import Epoch
from kd_ray.training.workers import Worker

OPTIONS = Train(epochs=3, batch_size=64, lr=0.05)
MODEL: dict[str, Any] = {"name": "mlp", "hidden": [4]}


def _setup(task: Task, worker: Worker, inputs: Inputs) -> Setup:
    dataset = inputs.dataset(task.data)
    feed = feed_of(dataset.train, dataset.mean, dataset.std)
    names = list(dataset.class_names)
    options = {key: value for key, value in MODEL.items() if key != "name"}
    return Setup(
        model=build_model(
            MODEL["name"], options, shape=dataset.image_shape, classes=len(names), seed=task.member
        ),
        about=description(
            task,
            MODEL,
            ModelInput(shape=dataset.image_shape, mean=dataset.mean, std=dataset.std),
            names,
            parents={"dataset": dataset.fingerprint},
        ),
        options=OPTIONS,
        events=lambda training: fit(
            training, feed, label_objective(0.0), OPTIONS, seed=task.member, worker=worker
        ),
        test=feed_of(dataset.test, dataset.mean, dataset.std),
        details={"looked_at": len(feed.labels)},
    )


def _tasks(request: Request) -> list[Task]:
    return [request.task(PROBE, member=number) for number in range(2)]


def _identity(task: Task) -> dict[str, Any]:
    return {"probe": {"member": task.member, "fraction": task.recipe.data.fraction}}


def _details(result: Result) -> list[str]:
    return [f"probe of {result.details['looked_at']} rows: nothing strange"]


PROBE = Stage(
    name="probe",
    kind="linear probe",
    commands=("probe",),
    training=lambda task: OPTIONS,
    tasks=_tasks,
    title=lambda task: f"probe {task.member}",
    folder=lambda task: task.run_folder / "probes" / f"{task.member}",
    identity=_identity,
    parents=lambda task: {},
    perform=partial(train, _setup),
    summary=lambda result: f"{result.metrics['accuracy']:.2f} of the test images",
    details=_details,
)
PLACES = [Path("probes/0"), Path("probes/1")]


@pytest.fixture(autouse=True)
def _one_more_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, PROBE.name, PROBE)


def events(folder: Path, *stages: str) -> Generator[tuple[Task, Event]]:
    return Run(tiny_recipe(), folder, local=True).events(stages or None)


def finished(folder: Path, *stages: str) -> dict[str, bool]:
    """Performs stages to their end: title -> whether it existed."""
    seen = events(folder, *stages)
    return {task.title: event.existed for task, event in seen if isinstance(event, Finished)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder with all stages of a recipe; never changed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, PROBE.name, PROBE)
        finished(folder)
    return folder


def test_a_run_of_everything_performs_the_stage_after_those_before_it(tmp_path: Path):
    made = finished(tmp_path)
    assert list(made)[-2:] == ["probe 0", "probe 1"]
    assert not any(made.values())
    assert all(finished(tmp_path).values())


def test_its_command_asks_for_it_alone(whole: Path, tmp_path: Path):
    assert finished(tmp_path, "probe") == {"probe 0": False, "probe 1": False}
    for place in PLACES:
        assert weights_sha256(tmp_path / place) == weights_sha256(whole / place)


def test_its_result_is_recorded_like_any_other(whole: Path):
    result = read_result(whole / PLACES[1])
    assert result is not None
    assert (result.stage, result.kind, result.title) == ("probe", "linear probe", "probe 1")
    assert result.identity == {"probe.member": 1, "probe.fraction": 0.125}
    assert result.details["looked_at"] == 169
    assert evaluate_checkpoint(whole / PLACES[1])["accuracy"] == result.metrics["accuracy"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_interrupted_it_goes_on_and_ends_with_the_weights_of_one_that_was_not(
    whole: Path, tmp_path: Path, epoch: int
):
    begun = events(tmp_path, "probe")
    for _, event in begun:
        if isinstance(event, Epoch) and event.number == epoch:
            break
    begun.close()
    assert "probe 0" in {artefact.title for artefact in read_run(tmp_path).unfinished}
    assert inspect(tmp_path)[1][f"probe 0 ({epoch} of 3 epochs)"].startswith("unfinished")
    trained = [
        (task.title, event.number)
        for task, event in events(tmp_path, "probe")
        if isinstance(event, Epoch)
    ]
    assert trained[0] == ("probe 0", epoch + 1)
    assert weights_sha256(tmp_path / PLACES[0]) == weights_sha256(whole / PLACES[0])


def test_it_is_refused_where_another_recipe_made_it(whole: Path):
    run = Run(tiny_recipe("data.fraction=0.25"), whole, local=True)
    with pytest.raises(CheckpointError, match=r"probe\.fraction is 0\.125 there and 0\.25 here"):
        list(run.events(["probe"]))


def test_it_is_inspected_with_its_own_words(whole: Path):
    facts = inspect(whole)[1]
    accuracy = read_result(whole / PLACES[0])
    assert accuracy is not None
    words = f"{accuracy.metrics['accuracy']:.2f} of the test images"
    assert facts["probe 0"].startswith(words)
    assert facts["probe 0"].endswith("in probes/0")
    assert inspect(whole / PLACES[0])[0].startswith("linear probe ")


def test_it_is_among_what_a_run_holds_and_in_the_report(whole: Path):
    run = read_run(whole)
    mine = [artefact for artefact in run.artefacts if artefact.stage is PROBE]
    assert [artefact.place for artefact in mine] == ["probes/0", "probes/1"]
    assert [artefact.kind for artefact in mine] == ["linear probe"] * 2
    assert [artefact.epochs for artefact in mine] == [3, 3]
    assert not run.unfinished
    page = report_page(run)
    for place in PLACES:
        result = read_result(whole / place)
        assert result is not None
        assert result.title in page
        assert result.fingerprint[:12] in page


def test_the_command_line_says_its_words_and_its_lines(tmp_path: Path):
    recipe = tiny_file(tmp_path)
    answer = CliRunner().invoke(app, ["run", str(recipe), "--local", "--runs", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert "of the test images" in answer.stdout
    assert "probe of 169 rows: nothing strange" in answer.stdout
