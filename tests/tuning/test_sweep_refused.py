import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_file
from tiny_sweep import RATE, entries, refused, search, swept_file, swept_recipe

from kd_ray import open_dataset, write_transfer_set
from kd_ray.errors import CheckpointError, ConfigError, StorageError, TrainingError
from kd_ray.files import locked
from kd_ray.pipeline import run
from tuning import open_sweep
from tuning.driver import check_sweep
from tuning.outcome import Sweep
from tuning.trials import SweepEvent, TrialBegins

WILDLY = {"space": {RATE: {"choice": [1e30, 1e31, 0.01]}}, "sampler": "grid", "max_failures": 1}


def test_too_many_failures_end_the_sweep_with_the_last_cause(runs: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        search(runs, **WILDLY)
    said = str(caught.value)
    assert "2 trials failed, and sweep.max_failures is 1; the last because: epoch 1: " in said
    assert "\n" not in said
    assert [trial.state for trial in open_sweep(runs / "tiny").trials] == ["failed", "failed"]
    seen: list[SweepEvent] = []
    with pytest.raises(TrainingError, match="2 trials failed"):
        search(runs, listener=seen.append, **WILDLY)
    assert [event for event in seen if isinstance(event, TrialBegins)] == []
    recipe = swept_file(runs, **WILDLY)
    assert f"kd-ray: {said}" == refused("run", recipe, "--runs", runs, "--local")
    found = search(runs, **{**WILDLY, "max_failures": 2})
    assert [trial.state for trial in found.trials] == ["failed", "failed", "finished"]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (("train.epochs=4",), "train.epochs is 3 there and 4 here"),
        (("objective.hard_weight=0.5",), "objective.hard_weight is 1.0 there and 0.5 here"),
        (("sweep.hold_out=0.5",), "sweep.hold_out is unset there and 0.5 here"),
        (("sweep.seed=1",), "sweep.seed is 0 there and 1 here"),
        (("sweep.scheduler=median",), "sweep.scheduler is 'none' there and 'median' here"),
        (("student.quantizer.weight_bits=32",), "student.quantizer"),
        (("student.continues=/elsewhere",), "student.continues"),
    ],
)
def test_a_sweep_of_another_recipe_is_refused_and_left_as_it_was(
    undisturbed: Sweep, tmp_path: Path, overrides: tuple[str, ...], difference: str
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    before = files_of(tmp_path / "tiny" / "sweep")
    if "quantizer" in overrides[0]:
        overrides = ("student.quantizer.first_last_float=false", *overrides)
    with pytest.raises(CheckpointError) as caught:
        search(tmp_path, *overrides)
    assert difference in str(caught.value)
    assert files_of(tmp_path / "tiny" / "sweep") == before


def test_a_sweep_needs_no_logits_of_validation_rows_but_for_what_compares_with_them(
    tmp_path: Path,
) -> None:
    plain = swept_recipe(trials=1)
    dataset = open_dataset(plain.data)
    logits = torch.nn.functional.one_hot(dataset.train.labels, 10) * 3.0
    write_transfer_set(tmp_path / "set", dataset, {"train": logits})
    given = f"transfer_set.path={tmp_path / 'set'}"
    assert search(tmp_path, given, trials=1).front[0].metrics["accuracy"] > 0
    with pytest.raises(ConfigError, match=r"choose another sweep\.metric, or import"):
        search(tmp_path / "other", given, metric="agreement")


def test_a_transfer_set_that_changed_under_a_sweep_is_refused(
    undisturbed: Sweep, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "transfer_set")
    with pytest.raises(CheckpointError, match="transfer_set is '"):
        search(tmp_path, "transfer_set.dtype='float32'", trials=4)
    assert len(open_sweep(tmp_path / "tiny").trials) == 3


def test_a_recipe_without_a_sweep_is_refused(tmp_path: Path) -> None:
    said = refused("run", tiny_file(tmp_path), "--runs", tmp_path / "runs", "--local")
    assert "recipe tiny: a sweep needs a [sweep.space] table, but there is none" in said
    assert not (tmp_path / "runs").exists()
    recipe = swept_recipe().model_copy(update={"sweep": None})
    with pytest.raises(ConfigError, match=r"a sweep needs a \[sweep\.space\] table"):
        check_sweep(recipe)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"overrides": ("data.validation=0",)}, "data.validation is 0; carve some from"),
        ({"space": {"train.lrr": {"choice": [1]}}}, "did you mean 'lr'?"),
        ({"space": {RATE: {"choice": [0]}}}, "train.lr: input should be greater than 0"),
        ({"enqueue": [{RATE: 5.0}]}, "sweep.enqueue: train.lr = 5.0 lies outside the space"),
        (
            {"sampler": "grid", "space": {RATE: {"choice": [0.01]}}, "trials": 2},
            "the grid has 1 points, but 2 trials were asked for",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    overrides = options.pop("overrides", ())
    with pytest.raises(ConfigError) as caught:
        search(tmp_path / "runs", *overrides, **options)
    assert sentence in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_on_a_transfer_set_that_exists_already_is_the_same(
    undisturbed: Sweep, base: Path, tmp_path: Path
) -> None:
    path = f"transfer_set.path='{base / 'tiny' / 'transfer_set'}'"
    found = search(tmp_path, path)
    assert entries(found) == entries(undisturbed)
    assert not (tmp_path / "tiny" / "transfer_set").exists()


def test_a_finished_transfer_set_without_validation_rows_is_refused(tmp_path: Path) -> None:
    recipe = swept_recipe("data.validation=0").model_copy(update={"sweep": None})
    run(recipe, runs=tmp_path, stages=("teach", "label"), local=True)
    path = tmp_path / "tiny" / "transfer_set"
    with pytest.raises(ConfigError, match=r"compared by validation rows, but .* has none"):
        search(tmp_path / "other", f"transfer_set.path='{path}'")


def test_a_sweep_that_another_process_runs_is_refused(runs: Path) -> None:
    with locked(runs / "tiny" / "sweep"), pytest.raises(StorageError, match="is using it"):
        search(runs)


Damage = Callable[[Path], object]


def flipped(file: Path) -> None:
    """The second page of the database is of no kind that SQLite knows."""
    content = bytearray(file.read_bytes())
    content[4096] ^= 16
    file.write_bytes(content)


def changed(statement: str) -> Damage:
    def change(file: Path) -> None:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(statement)

    return change


STUDIES: dict[str, Damage] = {
    "empty": lambda file: file.write_bytes(b""),
    "no database": lambda file: file.write_bytes(b"no database at all " * 400),
    "a flipped bit": flipped,
    "no JSON": changed("UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'metrics'"),
    "no figures": changed(
        "UPDATE trial_user_attributes SET value_json = '1' WHERE key = 'metrics'"
    ),
    "no parameters": changed("DELETE FROM trial_params"),
    "no values": changed("DELETE FROM trial_values"),
}


@pytest.mark.parametrize("damage", STUDIES)
def test_a_damaged_study_is_answered_with_one_sentence(
    undisturbed: Sweep, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    study = tmp_path / "tiny" / "sweep" / "study.db"
    STUDIES[damage](study)
    for name in ("show", "best"):
        assert f"{study}: the sweep's study must be" in refused(name, tmp_path / "tiny")


@pytest.mark.parametrize(
    "content", ["[]", '{"trials": [{"trial": 0}]}', "{" * 5000, '{"trials": 1}']
)
def test_a_best_json_of_another_shape_is_answered_with_one_sentence(
    undisturbed: Sweep, tmp_path: Path, content: str
) -> None:
    shutil.copytree(undisturbed.folder.parent, tmp_path / "tiny")
    best = tmp_path / "tiny" / "sweep" / "best.json"
    best.write_text(content)
    for name in ("show", "best"):
        said = refused(name, tmp_path / "tiny")
        assert f"{best}: must be as it was written, but " in said
        assert "; remove it and run the sweep again" in said
