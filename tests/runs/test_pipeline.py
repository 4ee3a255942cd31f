import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import perform, tasks, tiny_file, tiny_recipe, weights_sha256

from kd_ray.config import Recipe, Resources, load_recipe
from kd_ray.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    StorageError,
    TransferSetError,
)
from kd_ray.files import locked
from kd_ray.pipeline import Run, open_recipe, this_process
from kd_ray.pipeline import run as run_pipeline
from kd_ray.report.summary import Summary
from kd_ray.runs import Event, Finished, Task
from kd_ray.training.progress import Epoch

DISTILLED = Path("student/distilled/seed-0")


def run(
    runs: Path, *overrides: str, seen: list[tuple[Task, Event]] | None = None, **arguments: object
) -> Summary:
    """A tiny recipe through the pipeline in this process."""
    listener = None if seen is None else lambda task, event: seen.append((task, event))
    recipe = tiny_recipe(*overrides)
    return run_pipeline(recipe, runs=runs, local=True, listener=listener, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with one that is finished; never changed."""
    runs = tmp_path_factory.mktemp("runs")
    run(runs)
    return runs


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's folder of runs, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def test_run_makes_every_artefact_and_sums_it_up(tmp_path: Path):
    seen: list[tuple[Task, Event]] = []
    summary = run(tmp_path, "train.seeds=[0, 1]", seen=seen)
    assert [row.name for row in summary.rows] == ["teacher", "labels", "distilled"]
    distilled = summary.row("distilled")
    assert distilled is not None
    assert len(distilled.metrics["accuracy"].values) == 2
    assert summary.transfer_set is not None
    assert summary.folder == tmp_path / "tiny"
    titles = list(dict.fromkeys(task.title for task, _ in seen))
    assert titles[:2] == ["teacher 0", "transfer set"]
    assert set(titles[2:]) == {
        f"student {variant}, seed {seed}" for variant in ("labels", "distilled") for seed in (0, 1)
    }


def test_run_writes_a_recipe_that_reads_back_as_the_one_it_ran(finished: Path):
    assert load_recipe(finished / "tiny" / "recipe.toml") == tiny_recipe()


def test_run_again_trains_nothing_and_comes_to_the_same(finished: Path, copied: Path):
    seen: list[tuple[Task, Event]] = []
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*.safetensors")}
    summary = run(copied, seen=seen)
    assert all(isinstance(event, Finished) and event.existed for _, event in seen)
    assert len(seen) == 4
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*.safetensors")} == before
    assert summary.rows == run(copied).rows


def test_run_goes_on_with_what_is_missing_only(copied: Path):
    shutil.rmtree(copied / "tiny" / DISTILLED)
    seen: list[tuple[Task, Event]] = []
    run(copied, seen=seen)
    trained = {task.title for task, event in seen if isinstance(event, Epoch)}
    assert trained == {"student distilled, seed 0"}


def test_run_of_one_stage_after_the_other_is_the_whole_run(finished: Path, tmp_path: Path):
    for stage in ("teach", "label", "distill"):
        summary = run(tmp_path, stages=[stage])
    assert [row.name for row in summary.rows] == ["labels", "distilled"]
    ours, theirs = tmp_path / "tiny" / DISTILLED, finished / "tiny" / DISTILLED
    assert weights_sha256(ours) == weights_sha256(theirs)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.lr=0.5", "train.lr is 0.01 there and 0.5 here"),
        ("teacher.train.lr=0.5", "teacher.train.lr is 0.01 there and 0.5 here"),
        ("transfer_set.dtype='float32'", "transfer_set.dtype is 'float16' there"),
        ("data.seed=3", "data.seed is 0 there and 3 here"),
    ],
)
def test_run_of_a_changed_recipe_is_refused_before_anything_is_done(
    copied: Path, override: str, key: str
):
    before = {
        path: path.read_bytes()
        for path in copied.rglob("*")
        if path.name != ".lock" and path.is_file()
    }
    with pytest.raises(CheckpointError) as caught:
        run(copied, override)
    assert key in str(caught.value)
    assert "--set name=" in str(caught.value)
    for path, content in before.items():
        assert path.read_bytes() == content


@pytest.mark.parametrize("stages", [["teach", "label", "distill"], ["distill"]])
def test_run_with_a_changed_teacher_does_not_pass_off_the_old_students_as_its_own(
    copied: Path, stages: list[str]
):
    shutil.rmtree(copied / "tiny" / "teacher")
    if stages == ["distill"]:
        perform(tasks(tiny_recipe("teacher.train.epochs=3"), copied / "tiny")[:1])
    with pytest.raises((CheckpointError, TransferSetError), match=r"teacher"):
        run(copied, "teacher.train.epochs=3", stages=stages)


def test_run_with_a_set_labelled_anew_does_not_pass_off_the_old_students_as_its_own(copied: Path):
    shutil.rmtree(copied / "tiny" / "transfer_set")
    with pytest.raises(CheckpointError, match="transfer_set is"):
        run(copied, "transfer_set.dtype='float32'")


def test_run_without_the_teachers_folder_trains_it_again_and_keeps_the_rest(copied: Path):
    shutil.rmtree(copied / "tiny" / "teacher")
    seen: list[tuple[Task, Event]] = []
    run(copied, seen=seen)
    found = {t.title: e.existed for t, e in seen if isinstance(e, Finished)}
    assert found == {
        "teacher 0": False,
        "transfer set": True,
        "student labels, seed 0": True,
        "student distilled, seed 0": True,
    }


def test_run_of_students_needs_no_teacher_once_the_set_is_labelled_elsewhere(
    finished: Path, tmp_path: Path
):
    table = tiny_recipe(f"transfer_set.path='{finished / 'tiny' / 'transfer_set'}'")
    recipe = table.model_copy(update={"teacher": None})
    summary = run_pipeline(recipe, runs=tmp_path, local=True)
    assert [row.name for row in summary.rows] == ["labels", "distilled"]
    assert not (tmp_path / "tiny" / "teacher").exists()
    ours, theirs = tmp_path / "tiny" / DISTILLED, finished / "tiny" / DISTILLED
    assert weights_sha256(ours) == weights_sha256(theirs)


def test_run_with_a_finished_set_has_nothing_to_teach_or_label(finished: Path, tmp_path: Path):
    path = f"transfer_set.path='{finished / 'tiny' / 'transfer_set'}'"
    with pytest.raises(ConfigError, match=r"transfer_set\.path: names a finished transfer set"):
        run(tmp_path, path, stages=["teach"])
    with pytest.raises(TransferSetError, match="a transfer set is a folder"):
        run(tmp_path, "transfer_set.path='/nowhere'")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Sixteen pictures of two classes."""
    root = tmp_path / "pictures"
    draw = np.random.default_rng(0)
    for number in range(16):
        name = ("dark", "light")[number % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 128, (8, 8, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def pictures_recipe(root: Path, *overrides: str) -> Recipe:
    return tiny_recipe(
        "data.name=imagefolder",
        "data.fraction=1.0",
        "data.image_size=8",
        f"data.root='{root}'",
        "transfer_set.include_images=true",
        "transfer_set.views=2",
        "transfer_set.augment.flip=true",
        "student.baselines=[]",
        *overrides,
    )


def test_run_of_students_needs_no_dataset_where_the_set_carries_the_images(
    pictures: Path, tmp_path: Path
):
    with_data = run_pipeline(pictures_recipe(pictures), runs=tmp_path / "a", local=True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "tiny" / "student")
    shutil.rmtree(pictures)
    again = pictures_recipe(tmp_path / "nowhere")
    without = run_pipeline(again, runs=tmp_path / "b", local=True, stages=["distill"])
    ours, theirs = (tmp_path / runs / "tiny" / DISTILLED for runs in ("a", "b"))
    assert weights_sha256(ours) == weights_sha256(theirs)
    assert with_data.rows[-1].metrics == without.rows[-1].metrics


def test_run_with_stored_images_is_that_with_images_from_the_dataset(
    pictures: Path, tmp_path: Path
):
    run_pipeline(pictures_recipe(pictures), runs=tmp_path / "a", local=True)
    read = pictures_recipe(pictures, "transfer_set.include_images=false")
    run_pipeline(read, runs=tmp_path / "b", local=True)
    ours, theirs = (tmp_path / runs / "tiny" / DISTILLED for runs in ("a", "b"))
    assert weights_sha256(ours) == weights_sha256(theirs)


def test_run_of_students_without_images_or_dataset_says_what_is_missing(
    pictures: Path, tmp_path: Path
):
    recipe = pictures_recipe(pictures, "transfer_set.include_images=false")
    run_pipeline(recipe, runs=tmp_path, local=True, stages=["teach", "label"])
    shutil.rmtree(pictures)
    with pytest.raises(DataError, match="must be a folder of pictures"):
        run_pipeline(recipe, runs=tmp_path, local=True, stages=["distill"])


def test_run_in_a_folder_that_is_in_use_is_refused(tmp_path: Path):
    with locked(tmp_path / "tiny"), pytest.raises(StorageError, match="is using it"):
        run(tmp_path)
    assert not (tmp_path / "tiny" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("resources.workers=2", "leave --local out, or use --workers 1"),
        ("resources.cpus_per_worker=100000", "100000 threads were asked for, but this machine"),
    ],
)
def test_run_in_this_process_refuses_resources_that_it_does_not_have(
    tmp_path: Path, override: str, reason: str
):
    with pytest.raises(ClusterError, match=reason):
        run(tmp_path, override)


def test_run_in_this_process_counts_cpus_where_the_system_has_no_affinity(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert this_process(Resources()).threads == os.cpu_count()


def test_run_reads_a_path_with_overrides(tmp_path: Path):
    path = tiny_file(tmp_path)
    summary = run_pipeline(
        path,
        ["name=short", "teacher.train.epochs=1"],
        runs=tmp_path,
        stages=["teach"],
        local=True,
    )
    assert summary.folder == tmp_path / "short"
    assert summary.results[0].epochs == 1


def test_run_with_the_listener_leaving_early_keeps_what_is_done(tmp_path: Path):
    work = Run(tiny_recipe(), tmp_path / "tiny", local=True)
    events = work.events()
    for _, event in events:
        if isinstance(event, Epoch):
            break
    events.close()  # type: ignore[attr-defined]
    seen: list[tuple[Task, Event]] = []
    run(tmp_path, seen=seen)
    numbers = [e.number for t, e in seen if isinstance(e, Epoch) and t.stage.name == "teach"]
    assert numbers == [2]


def test_open_recipe_tells_of_every_unknown_name_at_once():
    with pytest.raises(ConfigError) as caught:
        open_recipe(
            "quickstart",
            [
                "data.name=digit",
                "teacher.model={name='mpl', hidden=[1]}",
                "student.model.hiden=[2]",
                "train.schedule=cosin",
                "teacher.train.schedule={name='cosine', warm=0.1}",
            ],
        )
    message = str(caught.value)
    for sentence in (
        "data.name: unknown dataset 'digit'; did you mean 'digits'?",
        "teacher.model.name: unknown model 'mpl'; did you mean 'mlp'?",
        "student.model.hiden: unknown key; did you mean 'hidden'?",
        "train.schedule.name: unknown schedule 'cosin'; did you mean 'cosine'?",
        "teacher.train.schedule.warm: unknown key; did you mean 'warmup'?",
    ):
        assert sentence in message
