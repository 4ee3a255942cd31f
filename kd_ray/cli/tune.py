"""`kd-ray tune`: sweeps, their best trial, and what is made of it."""

from typing import Annotated

import typer

from kd_ray.cli.options import (
    AddressOption,
    LocalOption,
    RecipeArgument,
    RunsOption,
    SetOption,
    SweepArgument,
    TrialOption,
    VerboseOption,
    WorkersOption,
    answered,
)

tune = typer.Typer(
    name="tune",
    help="Search over T, c, bits and other keys of a recipe; carry on the best trial.",
    no_args_is_help=True,
)

HomeOption = Annotated[
    str | None,
    typer.Option("--runs", metavar="PLACE", help="Folder of run folders; else the sweep's own."),
]


@tune.command("run")
@answered
def run_sweep(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Students in all.")] = None,
    runs: RunsOption = "runs",
    workers: WorkersOption = None,
    address: AddressOption = None,
    local: LocalOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the sweep of a recipe's [sweep] table; run again, it goes on where it was."""
    from kd_ray.cli.sweep import sweep_with_display

    sets = [*(overrides or [])]
    if workers is not None:
        sets.append(f"resources.workers={workers}")
    if trials is not None:
        sets.append(f"sweep.trials={trials}")
    sweep_with_display(recipe, sets, runs, address=address, local=local, verbose=verbose)


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
    epochs: Annotated[int, typer.Option("--epochs", help="In all, those behind it counted.")],
    trial: TrialOption = None,
    runs: HomeOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    local: LocalOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a trial on from its checkpoint, as a run of its own."""
    from kd_ray.cli.sweep import carry_on
    from tuning.carry_on import resume_trial

    carry_on(
        lambda listener: resume_trial(
            sweep,
            epochs,
            trial=trial,
            runs=runs,
            workers=workers,
            address=address,
            local=local,
            verbose=verbose,
            listener=listener,
        )
    )


@tune.command()
@answered
def retrain(
    sweep: SweepArgument,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="With commas between; else three fresh ones.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Else as in the sweep.")] = None,
    trial: TrialOption = None,
    runs: HomeOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    local: LocalOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a trial anew with fresh seeds, for a figure that owes nothing to being chosen."""
    from kd_ray.cli.sweep import carry_on, whole_numbers
    from tuning.carry_on import retrain_trial

    fresh = None if seeds is None else whole_numbers("--seeds", seeds)
    carry_on(
        lambda listener: retrain_trial(
            sweep,
            fresh,
            trial=trial,
            epochs=epochs,
            runs=runs,
            workers=workers,
            address=address,
            local=local,
            verbose=verbose,
            listener=listener,
        )
    )
