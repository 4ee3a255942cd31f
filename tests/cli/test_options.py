"""The options that commands share, and how they become arguments."""

import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cluster.commands import COMMANDS
from kd_ray.cli import app
from kd_ray.cli.options import (
    PlacementOptions,
    RecipeArgument,
    TrainingOptions,
    answered,
    folded,
    unfolded,
)

TRAINING = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, annotation=TrainingOptions)


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


def test_folding_is_the_inverse_of_unfolding():
    parameters = unfolded(TRAINING)
    assert folded(TrainingOptions, {each.name: each.default for each in parameters}) == (
        TrainingOptions()
    )
    values = {each.name: each.name for each in parameters}
    training = folded(TrainingOptions, values)
    assert training == TrainingOptions(
        "overrides", "runs", PlacementOptions("workers", "address", "local", "verbose")
    )
    assert values == {}


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
