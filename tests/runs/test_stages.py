import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from tiny import (
    ALONE,
    perform,
    perform_in_pieces,
    result_at,
    tasks,
    tiny_recipe,
    weights_sha256,
    without_time,
)

from kd_ray.errors import CheckpointError, StorageError, TransferSetError
from kd_ray.files import TEMPORARY, locked, remove_drafts
from kd_ray.result import RESULT
from kd_ray.runs import Event, Finished, Started, Task, finished_result, perform_all, result_model
from kd_ray.runs import label as label_module
from kd_ray.runs import make as make_module
from kd_ray.runs.label import write_shards
from kd_ray.training.checkpoint import epochs_in, read_meta
from kd_ray.training.progress import Epoch
from kd_ray.training.workers import together

ADAM = ("teacher.train.epochs=4", "train.epochs=4")
SGD_BEST = (
    *ADAM,
    "data.validation=60",
    "data.fraction=0.1",
    *(
        f"{place}.{override}"
        for place in ("teacher.train", "train")
        for override in ("optimizer='sgd'", "schedule='one-cycle'", "keep='best'", "lr=0.1")
    ),
)
FEW_BITS = (
    *ADAM,
    "student.model={ name = 'convnet', groups = [[4], [8]] }",
    "student.quantizer={ weight_bits = 2, activation_bits = 2, gradient_bits = 4 }",
)
STEPS = (*FEW_BITS, "student.quantizer={ method = 'lsq', weight_bits = 2, activation_bits = 2 }")
CLIPS = (*FEW_BITS, "student.quantizer={ method = 'pact', weight_bits = 1, activation_bits = 2 }")
RESUMED = {
    "adam": ADAM,
    "sgd-one-cycle-best": SGD_BEST,
    "few-bits": FEW_BITS,
    "learned-steps": STEPS,
    "learned-clips": CLIPS,
}


def by_stage(todo: list[Task]) -> dict[str, Task]:
    """The tasks by stage; of the students the distilled one, which is last."""
    return {task.stage.name: task for task in todo}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a teacher, its transfer set and two students; never changed."""
    folder = tmp_path_factory.mktemp("finished")
    perform(tasks(tiny_recipe(), folder))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED)
def test_training_stopped_after_every_epoch_gives_the_weights_of_one_that_was_not(
    tmp_path: Path, overrides: tuple[str, ...]
):
    recipe = tiny_recipe("student.baselines=[]", *overrides)
    straight, pieces = tasks(recipe, tmp_path / "straight"), tasks(recipe, tmp_path / "pieces")
    perform(straight)
    for whole, broken in zip(straight, pieces, strict=True):
        perform_in_pieces(broken)
        ours, theirs = result_at(whole.folder), result_at(broken.folder)
        if whole.stage.name == "label":
            assert ours.sha256 == theirs.sha256
            continue
        assert theirs.resumed_from == 4
        assert ours.resumed_from is None
        assert weights_sha256(whole.folder) == weights_sha256(broken.folder)
        assert without_time(ours.history) == without_time(theirs.history)
        assert len(ours.history) == 4
        for key in ("metrics", "checkpoint", "weights_sha256", "identity", "parents"):
            assert getattr(ours, key) == getattr(theirs, key)


def test_training_that_keeps_the_best_epoch_ends_with_its_weights(tmp_path: Path):
    (task, *_) = tasks(tiny_recipe(*SGD_BEST, "teacher.train.epochs=6"), tmp_path)
    perform([task])
    result = result_at(task.folder)
    accuracies = [record["accuracy"] for record in result.history]
    best = accuracies.index(max(accuracies)) + 1
    assert result.checkpoint == f"epoch-{best:04d}"
    assert set(epochs_in(task.folder)) == {best, 6}


def test_training_that_keeps_the_last_epoch_has_one_checkpoint(finished: Path):
    for task in tasks(tiny_recipe(), finished):
        if task.stage.name != "label":
            assert epochs_in(task.folder) == [2]
            assert result_at(task.folder).checkpoint == "epoch-0002"


def test_perform_all_again_finds_everything_and_trains_nothing(copied: Path):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    events = [event for _, event in perform(tasks(tiny_recipe(), copied))]
    assert all(isinstance(event, Finished) and event.existed for event in events)
    assert len(events) == 4
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_perform_all_tells_of_each_task_in_order(finished: Path, tmp_path: Path):
    todo = tasks(tiny_recipe(), tmp_path)
    seen: dict[str, list[Event]] = {}
    for task, event in perform_all(todo, ALONE):
        seen.setdefault(task.title, []).append(event)
    assert list(seen) == [
        "teacher 0",
        "transfer set",
        "student labels, seed 0",
        "student distilled, seed 0",
    ]
    for title, events in seen.items():
        assert isinstance(events[0], Started)
        assert events[0].done == 0
        assert isinstance(events[-1], Finished)
        assert not events[-1].existed
        if title != "transfer set":
            assert [e.number for e in events if isinstance(e, Epoch)] == [1, 2]


def test_perform_all_in_two_folders_makes_the_same_bytes(finished: Path, tmp_path: Path):
    todo = tasks(tiny_recipe(), tmp_path)
    perform(todo)
    for ours, theirs in zip(todo, tasks(tiny_recipe(), finished), strict=True):
        if ours.stage.name == "label":
            assert result_at(ours.folder).sha256 == result_at(theirs.folder).sha256
        else:
            assert weights_sha256(ours.folder) == weights_sha256(theirs.folder)


def test_result_holds_figures_origin_and_recipe(finished: Path):
    stages = by_stage(tasks(tiny_recipe(), finished))
    teacher, labelled, student = (
        result_at(stages[s].folder) for s in ("teach", "label", "distill")
    )
    assert teacher.metrics.keys() >= {"accuracy", "errors", "loss"}
    assert student.metrics.keys() >= {"accuracy", "agreement", "divergence"}
    assert labelled.parents["teacher-00"] == teacher.weights_sha256
    assert labelled.parents["dataset"] == teacher.parents["dataset"]
    assert student.parents["transfer_set"] == labelled.sha256
    assert teacher.parameters > student.parameters > 0
    for result in (teacher, labelled, student):
        assert result.status == "finished"
        assert result.recipe["name"] == "tiny"
        assert result.versions["torch"]
        assert result.images_per_s > 0


def test_members_of_an_ensemble_differ_and_are_all_stored(tmp_path: Path):
    recipe = tiny_recipe("teacher.members=3", "student.baselines=[]", "train.epochs=1")
    todo = tasks(recipe, tmp_path)
    perform(todo)
    hashes = [weights_sha256(task.folder) for task in todo if task.stage.name == "teach"]
    assert len(set(hashes)) == 3
    parents = result_at(by_stage(todo)["label"].folder).parents
    assert [parents[f"teacher-{n:02d}"] for n in range(3)] == hashes
    assert "agreement" in result_at(todo[-1].folder).metrics


def test_a_recipe_without_a_soft_term_trains_the_baseline_on_labels_and_nothing_else(copied: Path):
    without = tasks(tiny_recipe("objective.soft_weight=0"), copied)
    assert [task.variant for task in without if task.stage.name == "distill"] == ["labels"]
    before = weights_sha256(without[-1].folder)
    shutil.rmtree(without[-1].folder)
    perform(without)
    assert weights_sha256(without[-1].folder) == before


def test_students_of_different_seeds_differ(copied: Path):
    todo = tasks(tiny_recipe("train.seeds=[0, 1]", "student.baselines=[]"), copied)
    perform(todo)
    first, second = (task for task in todo if task.stage.name == "distill")
    assert weights_sha256(first.folder) != weights_sha256(second.folder)


OTHERS = [
    ("teach", "teacher.train.lr=0.5", "teacher.train.lr is 0.01 there and 0.5 here"),
    ("teach", "data.fraction=0.2", "data.fraction is 0.125 there and 0.2 here"),
    ("teach", "data.labelled=0.5", "data.labelled is unset there and 0.5 here"),
    ("teach", "teacher.model.hidden=[9]", "teacher.model.hidden is"),
    ("label", "transfer_set.dtype='float32'", "transfer_set.dtype is 'float16' there"),
    ("label", "teacher.members=2", "teacher.members is 1 there and 2 here"),
    ("distill", "objective.temperature=9.5", "objective.temperature is 4.0 there and 9.5 here"),
    ("distill", "train.epochs=9", "train.epochs is 2 there and 9 here"),
    ("distill", "student.model.hidden=[9]", "student.model.hidden is"),
]


@pytest.mark.parametrize(("stage", "override", "key"), OTHERS)
def test_finished_result_refuses_what_another_recipe_made_and_names_the_key(
    finished: Path, stage: str, override: str, key: str
):
    task = by_stage(tasks(tiny_recipe(override), finished))[stage]
    with pytest.raises(CheckpointError) as caught:
        finished_result(task)
    assert key in str(caught.value)


@pytest.mark.parametrize(("stage", "override", "key"), [o for o in OTHERS if o[0] != "label"])
def test_training_of_another_recipe_does_not_go_on_from_an_unfinished_one(
    copied: Path, stage: str, override: str, key: str
):
    task = by_stage(tasks(tiny_recipe(override), copied))[stage]
    (task.folder / RESULT).unlink()
    for refused in (lambda: finished_result(task), lambda: perform([task])):
        with pytest.raises(CheckpointError) as caught:
            refused()
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("teach", "train.lr=0.5"),
        ("teach", "transfer_set.views=1"),
        ("label", "objective.temperature=9"),
        ("distill", "train.seeds=[0, 1]"),
        ("distill", "resources.workers=2"),
        ("teach", "name='other'"),
        ("distill", "student.baselines=[]"),
    ],
)
def test_finished_result_takes_what_a_change_elsewhere_does_not_concern(
    finished: Path, stage: str, override: str
):
    (task,) = [t for t in tasks(tiny_recipe(), finished) if t.title == TITLES[stage]]
    (changed,) = [t for t in tasks(tiny_recipe(override), finished) if t.title == TITLES[stage]]
    assert finished_result(changed) == finished_result(task) == result_at(task.folder)


TITLES = {
    "teach": "teacher 0",
    "label": "transfer set",
    "distill": "student distilled, seed 0",
}


def test_finished_result_of_an_empty_folder_is_none(tmp_path: Path):
    assert [finished_result(task) for task in tasks(tiny_recipe(), tmp_path)] == [None] * 4


def test_a_student_refuses_a_set_that_another_teacher_labelled(copied: Path):
    recipe = tiny_recipe("teacher.train.epochs=3")
    todo = by_stage(tasks(recipe, copied))
    shutil.rmtree(todo["teach"].folder)
    shutil.rmtree(todo["distill"].folder)
    perform([todo["teach"]])
    with pytest.raises(TransferSetError, match="it must be of the run's teachers, but member 0"):
        perform([todo["distill"]])
    with pytest.raises(CheckpointError, match="teachers is"):
        perform([todo["label"]])


def test_a_teacher_trained_again_from_the_same_recipe_changes_nothing(copied: Path):
    todo = tasks(tiny_recipe(), copied)
    shutil.rmtree(todo[0].folder)
    events = perform(todo)
    found = {task.stage.name: e.existed for task, e in events if isinstance(e, Finished)}
    assert found == {"teach": False, "label": True, "distill": True}


def test_a_student_refuses_an_altered_file_of_its_transfer_set(copied: Path):
    todo = by_stage(tasks(tiny_recipe(), copied))
    shutil.rmtree(todo["distill"].folder)
    file = copied / "transfer_set" / "train-00001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TransferSetError, match=r"train-00001\.parquet: must be as it was written"):
        perform([todo["distill"]])


def test_a_student_without_a_teacher_says_what_is_missing(tmp_path: Path):
    student = by_stage(tasks(tiny_recipe(), tmp_path))["distill"]
    with pytest.raises(TransferSetError, match="run kd-ray label to make it"):
        perform([student])


def test_labelling_without_a_teacher_says_what_is_missing(tmp_path: Path):
    labelling = by_stage(tasks(tiny_recipe(), tmp_path))["label"]
    with pytest.raises(CheckpointError, match="training must have finished"):
        perform([labelling])


def test_a_run_stopped_between_manifest_and_result_writes_the_result(copied: Path):
    task = by_stage(tasks(tiny_recipe(), copied))["label"]
    before = result_at(task.folder)
    (task.folder / RESULT).unlink()
    perform([task])
    assert result_at(task.folder).sha256 == before.sha256
    assert result_at(task.folder).metrics == before.metrics


def test_labelling_goes_on_where_it_was_closed(finished: Path, copied: Path):
    task = by_stage(tasks(tiny_recipe(), copied))["label"]
    shutil.rmtree(task.folder)
    events = perform_all([task], ALONE)
    for _ in range(3):
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert len(list(task.folder.glob("*.parquet"))) == 2
    assert finished_result(task) is None
    done = [getattr(event, "existed", None) for _, event in perform([task])]
    assert done[:4] == [None, True, True, False]
    original = by_stage(tasks(tiny_recipe(), finished))["label"]
    assert result_at(task.folder).sha256 == result_at(original.folder).sha256


def test_performing_removes_what_a_killed_process_left_half_written(copied: Path):
    task = by_stage(tasks(tiny_recipe(), copied))["distill"]
    (task.folder / RESULT).unlink()
    draft = task.folder / f"{TEMPORARY}1-epoch-0003"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    perform([task])
    assert not draft.exists()
    assert read_meta(result_model(task.folder)).epoch == 2


def test_a_damaged_result_is_refused_by_name(copied: Path):
    task = by_stage(tasks(tiny_recipe(), copied))["teach"]
    (task.folder / RESULT).write_text('{"status": "fini')
    with pytest.raises(CheckpointError, match=r"result\.json: must be as it was written"):
        perform([task])


def test_a_damaged_checkpoint_is_refused_and_says_how_to_go_on(copied: Path):
    task = by_stage(tasks(tiny_recipe(), copied))["teach"]
    (task.folder / RESULT).unlink()
    (task.folder / "epoch-0002" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="the file was altered"):
        perform([task])


def test_perform_all_closed_early_lets_the_run_folder_go(tmp_path: Path):
    first, *rest = tasks(tiny_recipe(), tmp_path)
    generator = perform_all([first, *rest], ALONE)
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    with locked(first.folder):
        assert (first.folder / ".lock").is_file()


def test_an_artefact_has_one_writer_and_those_beside_it_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An orphan of a killed run may still write; members that train side by side must not wait."""
    monkeypatch.setattr("kd_ray.runs.perform.ORPHAN_WAIT_S", 0.0)
    recipe = tiny_recipe("teacher.members=2", "train.epochs=1")
    first, second, *_ = tasks(recipe, tmp_path)
    with locked(first.folder):
        with pytest.raises(StorageError, match="one process at a time"):
            perform([first])
        perform([second])
    perform([first])


def test_a_task_is_sent_as_bytes_and_performed_to_the_same_end(finished: Path, tmp_path: Path):
    todo = tasks(tiny_recipe(), tmp_path)
    sent = [cloudpickle.loads(cloudpickle.dumps(task)) for task in todo]
    for task, again in zip(todo, sent, strict=True):
        assert again.recipe == task.recipe
        assert again.stage.name == task.stage.name
        assert (again.title, again.folder) == (task.title, task.folder)
    perform(sent)
    for task, theirs in zip(todo, tasks(tiny_recipe(), finished), strict=True):
        assert finished_result(task) is not None
        assert result_at(task.folder).fingerprint == result_at(theirs.folder).fingerprint


def test_no_worker_writes_a_shard_before_the_first_has_removed_old_drafts(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    """All workers leave a `together` block at once, so one must end between the two."""
    seen: list[str] = []

    @contextlib.contextmanager
    def noted_together(device: torch.device) -> Iterator[None]:
        with together(device):
            yield
        seen.append("all have come")

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(make_module, "together", noted_together)
    monkeypatch.setattr(make_module, "remove_drafts", noted("drafts go", remove_drafts))
    monkeypatch.setattr(label_module, "write_shards", noted("shards come", write_shards))
    todo = by_stage(tasks(tiny_recipe(), copied))["label"]
    shutil.rmtree(todo.folder)
    perform([todo])
    gone, come = seen.index("drafts go"), seen.index("shards come")
    assert "all have come" in seen[gone:come]
