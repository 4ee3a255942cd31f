"""`kd-ray tune`: sweeps, their best trial, and what is made of it."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import typer

from kd_ray.cli.options import (
    CodeOption,
    PlacementOptions,
    RecipeArgument,
    TrainingOptions,
    answered,
    whole_numbers_in,
)

tune = typer.Typer(
    name="tune",
    help="Search over T, c, bits and other keys of a recipe; carry on the best trial.",
    no_args_is_help=True,
)

SweepArgument = Annotated[
    str, typer.Argument(help="Run folder of a sweep, or its URL.", metavar="SWEEP")
]


@dataclass(frozen=True)
class TrialOptions(PlacementOptions):
    """The options of every command that makes something of a trial."""

    trial: Annotated[
        int | None, typer.Option(help="Number of the trial; the best one by default.")
    ] = None
    runs: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Folder of run folders, or its URL; the one that the sweep lies in by default.",
        ),
    ] = None
    code: CodeOption = None

    @property
    def how(self) -> dict[str, Any]:
        """All but the code, which was allowed when it was read."""
        return {name: value for name, value in asdict(self).items() if name != "code"}


@tune.command("run")
@answered
def run_sweep(
    recipe: RecipeArgument,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all, as sweep.trials of the recipe.")
    ] = None,
    *,
    training: TrainingOptions,
) -> None:
    """Run the sweep that a recipe describes; run again, it goes on where it was."""
    from kd_ray.cli.sweep import sweep_with_display

    sets = training.sets(**{"sweep.trials": trials})
    sweep_with_display(recipe, sets, training.runs, **training.where)


@tune.command()
@answered
def show(sweep: SweepArgument) -> None:
    """List the trials of a sweep."""
    from kd_ray.cli.sweep import show_trials

    show_trials(sweep)


@tune.command()
@answered
def best(sweep: SweepArgument) -> None:
    """Show the best trial, or the Pareto front: recipe, validation and test figures."""
    from kd_ray.cli.sweep import show_best

    show_best(sweep)


@tune.command()
@answered
def resume(
    sweep: SweepArgument,
    epochs: Annotated[int, typer.Option(help="Epochs in all, those that the trial has included.")],
    *,
    options: TrialOptions,
) -> None:
    """Train a trial on from its checkpoint, as a run of its own."""
    from kd_ray.cli.run import run_with_display
    from tuning.carry_on import resume_trial

    run_with_display(partial(resume_trial, sweep, epochs, **options.how))


@tune.command()
@answered
def retrain(
    sweep: SweepArgument,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds of the students, with commas between; by default three that the sweep did "
            "not use.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs in all; as in the sweep by default.")
    ] = None,
    *,
    options: TrialOptions,
) -> None:
    """Train a trial anew with fresh seeds, for a figure that owes nothing to being chosen."""
    from kd_ray.cli.run import run_with_display
    from tuning.carry_on import retrain_trial

    fresh = None if seeds is None else whole_numbers_in("--seeds", seeds)
    run_with_display(partial(retrain_trial, sweep, fresh, epochs=epochs, **options.how))
