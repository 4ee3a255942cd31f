"""The options that commands share, and how they become arguments."""

from typing import Any

import pytest
import typer
from tiny import refused
from typer.testing import CliRunner

from cluster.commands import COMMANDS
from kd_ray.cli import app
from kd_ray.cli.options import RecipeArgument, TrainingOptions, answered


def leaf(words: str) -> Any:
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_a_cluster_takes_the_options_that_say_where_it_runs(name: str):
    flags = {flag for parameter in leaf(name).params for flag in parameter.opts}
    assert {"--runs", "--workers", "--address", "--local", "--verbose"} <= flags
    assert ("--set" in flags) == (name not in ("tune resume", "tune retrain"))


def test_a_command_gets_one_object_of_what_was_typed():
    seen: list[tuple[str, TrainingOptions]] = []

    @answered
    def command(recipe: RecipeArgument, training: TrainingOptions) -> None:
        seen.append((recipe, training))

    tool = typer.Typer()
    tool.command()(command)
    words = ["mine", "--set", "a=1", "--workers", "2", "--local", "--runs", "there"]
    assert CliRunner().invoke(tool, words).exit_code == 0
    [(recipe, training)] = seen
    assert (recipe, training.runs) == ("mine", "there")
    assert training.sets(**{"sweep.trials": None, "b": 2}) == [
        *("a=1", "resources.workers=2", "b=2"),
    ]
    assert training.where == {"address": None, "local": True, "verbose": False}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("quickstart --localy", "no such option '--localy'; did you mean '--local'? known: --addr"),
        ("quickstart --trane-images 5", "no such option '--trane-images'; known: --address, --loc"),
        ("tune run quickstart --trails=5", "no such option '--trails'; did you mean '--trials'?"),
        ("--verson", "no such option '--verson'; did you mean '--version'?"),
        ("quikstart", "No such command 'quikstart'. Did you mean 'quickstart'?"),
        ("run", "Missing argument"),
        ("quickstart --workers x", "Invalid value for '--workers'"),
    ],
)
def test_what_is_mistyped_is_answered_in_one_sentence_with_what_is_near(words: str, sentence: str):
    assert sentence in refused(*words.split())


def test_a_group_without_a_command_shows_its_commands():
    for words in ([], ["tune"], ["cluster"]):
        answer = CliRunner().invoke(app, words)
        assert "Usage: " in answer.output
        assert "kd-ray: " not in answer.output
