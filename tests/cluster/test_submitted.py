"""Commands for a cluster, checked and rewritten here; no cluster is asked."""

from pathlib import Path
from typing import Any

import pytest
import typer

from kd_ray.cli import app
from kd_ray.cli.submitted import Luggage, travelling
from kd_ray.errors import ConfigError


def submitted(*command: str) -> Luggage:
    root: Any = typer.main.get_command(app)
    return travelling(root, command)


def test_what_travels_is_the_recipe_as_it_is_here_with_everything_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    found = submitted("run", "quickstart", "--set", "train.epochs=7", "--workers", "2")
    assert found.command == ["run", "recipe.toml", "--runs", str(tmp_path / "runs")]
    assert found.run == str(tmp_path / "runs" / "quickstart")
    assert found.recipe is not None
    assert (found.recipe.train.epochs, found.recipe.resources.workers) == (7, 2)


def test_a_path_is_made_absolute_and_a_url_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = "transfer_set.path=made/transfer_set"
    found = submitted("distill", "quickstart", "--runs", "here", "--set", path)
    assert found.run == str(tmp_path / "here" / "quickstart")
    assert found.recipe is not None
    assert found.recipe.transfer_set.path == str(tmp_path / "made" / "transfer_set")


def test_quickstart_travels_as_the_recipe_that_it_is():
    assert submitted("quickstart", "--set", "name=mine").command[:2] == ["run", "recipe.toml"]


def test_options_are_typed_again_and_defaults_are_not(tmp_path: Path):
    found = submitted("exercises", "quickstart", "--temperatures", "1,4", "--verbose")
    assert found.command[:5] == ["exercises", "recipe.toml", "--temperatures", "1,4", "--verbose"]
    found = submitted("views", "mnist-views", "--views", "1,8")
    assert found.command[:4] == ["views", "recipe.toml", "--views", "1,8"]
    found = submitted("tune", "run", "mnist-sweep", "--trials", "5")
    assert found.command[:3] == ["tune", "run", "recipe.toml"]
    assert found.recipe is not None
    assert found.recipe.sweep is not None
    assert found.recipe.sweep.trials == 5
    found = submitted("tune", "resume", str(tmp_path / "s"), "--epochs", "9", "--trial", "3")
    assert found.command == ["tune", "resume", str(tmp_path / "s"), "--epochs", "9", "--trial", "3"]
    assert found.run == str(tmp_path / "s")
    assert found.recipe is None


def test_the_papers_experiments_travel_as_they_were_typed(tmp_path: Path):
    runs = str(tmp_path)
    typed = ["reproduce", "--quick", "--only", "no-3s", "--set", "train.epochs=2"]
    found = submitted(*typed, "--runs", runs)
    assert found.command == [*typed, "--runs", runs]
    assert found.run == f"{runs}/reproduce-mnist-quick"
    assert found.recipe is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "got|submit nothing: must be a command that trains"),
        ("rnu mnist", "did you mean 'run'"),
        ("inspect runs", "submit inspect: must be a command that trains"),
        ("tune show runs", "submit tune show: must be a command that trains"),
        ("cluster down", "must be a command that trains"),
        ("run mnist --local", "--local: says where to run"),
        ("run mnist --address 10.0.0.1:6379", "--address: says where to run"),
        ("run mnits", "mnits"),
        ("run mnist --set train.epoch=3", "did you mean 'epochs'"),
    ],
)
def test_a_command_that_cannot_run_there_is_refused_here(command: str, words: str):
    with pytest.raises(ConfigError, match=words):
        submitted(*command.split())
