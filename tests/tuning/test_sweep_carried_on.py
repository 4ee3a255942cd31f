import contextlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import result_at, tiny_recipe
from tiny_sweep import BASE, RATE, TEST, T, command, entries, killed, refused, reports, search

from kd_ray.config import Recipe, load_recipe
from kd_ray.errors import CheckpointError, ConfigError, KdRayError
from kd_ray.pipeline import run as run_pipeline
from kd_ray.report.summary import Summary
from kd_ray.result import Result
from kd_ray.training.checkpoint import epoch_folder, read_meta
from tuning import open_sweep, resume_trial, retrain_trial
from tuning.outcome import Sweep, TrialRow, figure

LONGER = 5
"""Epochs; the trials have three."""


@pytest.fixture(scope="module")
def found(undisturbed: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A finished sweep in runs of its own, to which runs are added."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("carried-on")
    shutil.copytree(undisturbed.folder.parent, runs / "tiny")
    return open_sweep(runs / "tiny")


def runs_of(found: Sweep) -> Path:
    return found.folder.parent.parent


def student(found: Sweep, run: str, seed: int = 0, variant: str = "distilled") -> Result:
    """The result of a student in a run folder beside the sweep's."""
    return result_at(runs_of(found) / run / "student" / variant / f"seed-{seed}")


def at_once(found: Sweep, trial: TrialRow, epochs: int, runs: Path, *overrides: str) -> Summary:
    """A trial's student as `kd-ray distill` trains it."""
    recipe = tiny_recipe(
        *BASE,
        f"train.epochs={epochs}",
        f"train.lr={trial.settings[RATE]}",
        f"objective.temperature={trial.settings[T]}",
        f"transfer_set.path='{found.folder.parent / 'transfer_set'}'",
        *overrides,
    )
    return run_pipeline(recipe, runs=runs, stages=("distill",), local=True)


def test_a_trial_is_what_distilling_with_its_settings_makes(found: Sweep, tmp_path: Path) -> None:
    best = found.front[0]
    at_once(found, best, 3, tmp_path, "student.baselines=[]")
    alone = result_at(tmp_path / "tiny" / "student" / "distilled" / "seed-0")
    assert found.best[0]["weights_sha256"] == [alone.weights_sha256]
    assert found.best[0]["test"] == alone.metrics


def test_a_resumed_trial_is_bit_for_bit_what_so_many_epochs_at_once_make(
    found: Sweep, tmp_path: Path
) -> None:
    best = found.front[0]
    answer = command("resume", found.folder.parent, "--epochs", LONGER, "--local")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    name = f"tiny-trial-{best.number}-{LONGER}-epochs"
    assert "goes on after epoch 3 of 5" in answer.output
    assert f"In {runs_of(found) / name}" in answer.output
    at_once(found, best, LONGER, tmp_path, "student.baselines=[]")
    alone = result_at(tmp_path / "tiny" / "student" / "distilled" / "seed-0")
    longer = student(found, name)
    assert longer.weights_sha256 == alone.weights_sha256
    assert longer.metrics == alone.metrics
    assert longer.metrics["rows"] == TEST
    assert (longer.epochs, longer.resumed_from, len(longer.history)) == (5, 3, 5)
    assert not (runs_of(found) / name / "student" / "labels").exists()


def test_a_resumed_trial_names_the_sweep_the_trial_and_the_weights_it_comes_from(
    found: Sweep,
) -> None:
    resume_trial(found.folder, 4, trial=1, local=True)
    longer = student(found, "tiny-trial-1-4-epochs")
    parents = longer.parents
    assert parents["trial"] == "1"
    assert "tiny" in parents["sweep"]
    trial = found.folder / "trial-0001" / "student" / "distilled" / "seed-0"
    assert parents["checkpoint"] == result_at(trial).weights_sha256
    assert parents["transfer_set"] == result_at(found.folder.parent / "transfer_set").sha256
    checkpoint = runs_of(found) / "tiny-trial-1-4-epochs" / "student" / "distilled" / "seed-0"
    assert read_meta(epoch_folder(checkpoint, 4)).parents == parents


def test_a_resumed_trial_is_an_ordinary_run_folder(found: Sweep) -> None:
    resume_trial(found.folder, 4, trial=1, local=True)
    folder = runs_of(found) / "tiny-trial-1-4-epochs"
    recipe = load_recipe(folder / "recipe.toml")
    assert recipe.sweep is None
    summary = run_pipeline(recipe, runs=folder.parent, stages=("distill",), local=True)
    assert [row.name for row in summary.rows] == ["distilled"]
    again = resume_trial(found.folder, 4, trial=1, local=True)
    assert again.rows == summary.rows


def test_a_resumed_trial_that_was_interrupted_goes_on_to_the_same(
    found: Sweep, tmp_path: Path
) -> None:
    def interrupt(task: Any, event: Any) -> None:
        if getattr(event, "number", 0) == 5:
            raise KeyboardInterrupt

    ours = tmp_path / "a"
    with contextlib.suppress(KeyboardInterrupt):
        resume_trial(found.folder, 6, trial=2, local=True, runs=ours, listener=interrupt)
    resume_trial(found.folder, 6, trial=2, local=True, runs=ours)
    resume_trial(found.folder, 6, trial=2, local=True, runs=tmp_path / "b")
    place = Path("tiny-trial-2-6-epochs/student/distilled/seed-0")
    results = [result_at(tmp_path / name / place) for name in ("a", "b")]
    assert results[0].weights_sha256 == results[1].weights_sha256
    assert results[0].resumed_from == 5


def test_resuming_leaves_the_trial_and_the_sweep_as_they_were(found: Sweep) -> None:
    before = entries(found), found.best
    checkpoints = sorted(found.folder.rglob("epoch-*"))
    resume_trial(found.folder, 4, trial=0, local=True)
    assert (entries(open_sweep(found.folder)), open_sweep(found.folder).best) == before
    assert sorted(found.folder.rglob("epoch-*")) == checkpoints


def test_a_trial_that_is_still_running_can_be_resumed_with_all_its_seeds(runs: Path) -> None:
    killed(runs, reports(1, 2), seeds=[3, 5])
    summary = resume_trial(runs / "tiny", 4, trial=1, local=True)
    row = summary.row("distilled")
    assert row is not None
    assert len(row.seconds.values) == 2
    for seed in (3, 5):
        place = runs / "tiny-trial-1-4-epochs" / "student" / "distilled" / f"seed-{seed}"
        assert result_at(place).resumed_from == 2


@pytest.mark.parametrize("epochs", [1, 3])
def test_resuming_for_no_more_epochs_is_refused(found: Sweep, epochs: int) -> None:
    said = refused("resume", found.folder, "--epochs", epochs, "--local")
    assert "has 3 epochs behind it, so train.epochs must be more" in said
    assert f"but is {epochs}; ask for more epochs" in said


@pytest.mark.parametrize("arguments", [("resume", "--epochs", 9), ("retrain",)])
def test_a_trial_that_there_is_none_of_is_refused(found: Sweep, arguments: tuple[Any, ...]) -> None:
    for number in (3, -1):
        said = refused(*arguments, found.folder, "--trial", number, "--local")
        assert f"trials are numbered 0 to 2, but {number} was asked for" in said


@pytest.mark.parametrize(
    "arguments",
    [("show",), ("best",), ("resume", "--epochs", 9, "--local"), ("retrain", "--local")],
)
def test_a_path_that_is_no_sweep_is_refused_with_what_one_is(
    tmp_path: Path, arguments: tuple[Any, ...]
) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        said = refused(*arguments, path)
        assert said.startswith(f"kd-ray: {path}: must be a sweep, but there is no sweep/study.db")
    assert not list(tmp_path.iterdir())


def test_a_trial_without_a_checkpoint_is_not_resumed(runs: Path) -> None:
    space = {RATE: {"choice": [1e30]}}
    search(runs, space=space, sampler="grid", trials=1)
    said = refused("resume", runs / "tiny", "--epochs", 9, "--trial", 0, "--local")
    assert "trial 0 (failed) has none; choose another one with --trial" in said
    for name in ("best", "retrain"):
        said = refused(name, runs / "tiny")
        assert "none of its 1 trials has finished yet" in said


def test_a_retrained_trial_has_fresh_seeds_and_its_baselines(found: Sweep, tmp_path: Path) -> None:
    best = found.front[0]
    answer = command("retrain", found.folder, "--seeds", "4,2", "--local")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    name = f"tiny-trial-{best.number}-again"
    at_once(found, best, 3, tmp_path, "train.seeds=[4, 2]")
    for seed in (4, 2):
        for variant in ("distilled", "labels"):
            alone = result_at(tmp_path / "tiny" / "student" / variant / f"seed-{seed}")
            again = student(found, name, seed, variant)
            assert again.weights_sha256 == alone.weights_sha256
            assert again.metrics["rows"] == TEST
    assert "±" in answer.output


def test_a_retrained_trial_has_three_seeds_after_those_of_the_sweep_by_default(
    runs: Path,
) -> None:
    search(runs, trials=1, seeds=[1, 4])
    summary = retrain_trial(runs / "tiny", epochs=1, local=True)
    assert summary.folder.name == "tiny-trial-0-again-1-epochs"
    folders = (summary.folder / "student" / "distilled").iterdir()
    assert sorted(path.name for path in folders) == ["seed-5", "seed-6", "seed-7"]


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ("0", "the sweep trained with [0]; use others, such as 1"),
        ("3,0", "the sweep trained with [0]"),
        ("", "must be whole numbers, each once, with commas between"),
        ("a,b", "must be whole numbers, each once, with commas between"),
        ("1,1", "must be whole numbers, each once, with commas between"),
        ("-1", "must be whole numbers, each once, with commas between"),
    ],
)
def test_seeds_that_are_not_fresh_are_refused(found: Sweep, seeds: str, sentence: str) -> None:
    said = refused("retrain", found.folder, f"--seeds={seeds}", "--local")
    assert said.startswith("kd-ray: --seeds: ")
    assert sentence in said


def test_show_lists_every_trial(found: Sweep) -> None:
    answer = command("show", found.folder.parent)
    assert answer.exit_code == 0, answer.output
    assert "tiny: 3 trials, validation rows" in answer.output
    for trial in found.trials:
        (line,) = re.findall(rf"^{trial.number} .*$", answer.output, re.MULTILINE)
        assert f"{trial.settings[T]:.4g}" in line
        assert f"{trial.settings[RATE]:.4g}" in line
        assert figure("accuracy", trial.metrics["accuracy"]) in line
        assert trial.state in line


def test_show_cuts_no_figure_of_a_wide_space_on_a_terminal_of_80_columns(runs: Path) -> None:
    space = {
        T: {"log_uniform": [1, 20]},
        "objective.soft_weight": {"log_uniform": [0.1, 10], "times": "T^2", "or_zero": True},
        "student.quantizer.weight_bits": {"choice": [1, 2, 4]},
        "student.quantizer.activation_bits": {"choice": [2, 4]},
        "student.model.hidden": {"choice": [[8, 8], [16, 16]]},
        RATE: {"log_uniform": [0.001, 0.03]},
    }
    model = "student.model={name='mlp', hidden=[8, 8]}"
    found = search(runs, model, space=space, metric=["accuracy", "packed_bytes"], trials=2)
    for name in ("show", "best"):
        answer = command(name, runs / "tiny")
        assert answer.exit_code == 0, answer.output
        table = answer.output.split("name = ")[0]
        assert "…" not in table
        for trial in found.trials if name == "show" else found.front:
            assert figure("accuracy", trial.metrics["accuracy"]) in table
            assert figure("packed_bytes", trial.metrics["packed_bytes"]) in table


def test_best_prints_the_winner_with_its_figures_and_a_recipe_that_can_be_run(
    found: Sweep, tmp_path: Path
) -> None:
    answer = command("best", found.folder.parent)
    assert answer.exit_code == 0, answer.output
    best, entry = found.front[0], found.best[0]
    assert f"{100 * entry['test']['accuracy']:.2f}" in answer.output
    assert figure("accuracy", best.values[0]) in answer.output
    path = tmp_path / "recipe.toml"
    path.write_text(answer.output[answer.output.index('name = "tiny"') :])
    recipe = load_recipe(path)
    assert recipe == Recipe.model_validate(entry["recipe"])
    assert (recipe.train.lr, recipe.objective.temperature) == (
        best.settings[RATE],
        best.settings[T],
    )


def test_best_of_a_sweep_that_goes_on_says_that_the_test_split_was_not_looked_at(
    runs: Path,
) -> None:
    killed(runs, reports(1, 1))
    answer = command("best", runs / "tiny")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    assert "the test split has not been looked at" in answer.output
    assert "test %" not in answer.output


def continuing(found: Sweep, *overrides: str, runs: Path) -> Summary:
    """A run that goes on from trial 0 by a recipe of one's own."""
    source = found.folder / "trial-0000" / "student" / "distilled"
    recipe = tiny_recipe(
        *BASE,
        "train.epochs=5",
        "student.baselines=[]",
        f"transfer_set.path='{found.folder.parent / 'transfer_set'}'",
        f"student.continues='{source}'",
        *overrides,
    )
    return run_pipeline(recipe, runs=runs, stages=("distill",), local=True)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.seeds=[8]", "seed-8 must have a checkpoint to go on from, but has none"),
        ("train.epochs=3", "has 3 epochs behind it, so train.epochs must be more, but is 3"),
        ("student.continues=/nowhere", "must have a checkpoint to go on from, but has none"),
        ("student.model={name='mlp', hidden=[9]}", "the weights do not fit model 'mlp'"),
        ("train.optimizer=sgd", "optimizer"),
    ],
)
def test_continuing_from_what_does_not_fit_is_refused(
    found: Sweep, tmp_path: Path, override: str, sentence: str
) -> None:
    with pytest.raises(KdRayError) as caught:
        continuing(found, override, runs=tmp_path)
    assert isinstance(caught.value, CheckpointError | ConfigError)
    assert sentence in str(caught.value)
    assert not list(tmp_path.rglob("epoch-*"))


def test_continuing_with_another_optimizer_does_not_end_in_a_traceback(
    found: Sweep, tmp_path: Path
) -> None:
    """SGD's state is not Adam's."""
    source = at_once(found, found.trials[0], 3, tmp_path / "sgd", "train.optimizer=sgd")
    path = source.folder / "student" / "distilled"
    with pytest.raises(CheckpointError, match="optimizer"):
        continuing(found, f"student.continues='{path}'", runs=tmp_path / "adam")


def test_continuing_from_another_checkpoint_than_before_is_refused(
    found: Sweep, tmp_path: Path
) -> None:
    continuing(found, runs=tmp_path)
    other = found.folder / "trial-0001" / "student" / "distilled"
    with pytest.raises(CheckpointError, match="checkpoint is '"):
        continuing(found, f"student.continues='{other}'", runs=tmp_path)
