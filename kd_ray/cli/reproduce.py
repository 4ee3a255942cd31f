"""`kd-ray reproduce`: the paper's experiments with a display for each part, and their tables."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd_ray.cli.options import TrainingOptions, answered

if TYPE_CHECKING:
    from rich.console import Console

    from kd_ray.studies.paper import Failure, Progress, Reproduction


@answered
def reproduce(
    name: Annotated[str, typer.Argument(help="Dataset of the experiments: mnist.")] = "mnist",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Train for less time with fewer seeds: 25 minutes at most."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run this experiment alone; may be repeated."),
    ] = None,
    *,
    training: TrainingOptions,
) -> None:
    """Run the paper's experiments from shared artefacts, and show the paper's figures beside."""
    from kd_ray.studies.paper import scale_of

    perform_with_display(
        scale_of(name, quick=quick),
        training.sets(),
        runs=training.runs,
        only=only or [],
        **training.where,
    )


def perform_with_display(scale: Any, overrides: list[str], **options: Any) -> None:
    """Performs experiments and prints their tables; see `reproduce.reproduction` for arguments.

    Raises:
        KdRayError: what failed, by name, after everything else is done.
    """
    from contextlib import ExitStack, closing

    from rich.console import Console

    from kd_ray.cli.display import Display
    from kd_ray.errors import KdRayError
    from kd_ray.files import to_path
    from kd_ray.studies.paper import Progress, reproduction

    console = Console()
    work = reproduction(scale, overrides, **options)
    with ExitStack() as part, closing(work.events()) as events:
        display = Display(console)
        for _, event in events:
            if isinstance(event, tuple):
                display.show(*event)
                continue
            part.close()
            print_in_words(console, event)
            if isinstance(event, Progress):
                display = part.enter_context(Display(console))  # titles are told apart by part
    print_tables(console, work)
    for file in ("results.json", "report.html"):
        console.print(f"{to_path(options['runs']) / scale.name / file}: written", highlight=False)
    if work.failures:
        named = "; ".join(
            f"{failure.part} (of {', '.join(failure.experiments) or 'all experiments'}): "
            f"{failure.reason}"
            for failure in work.failures
        )
        raise KdRayError(
            f"{len(work.failures)} of {len(work.todo)} parts failed, the others are finished; "
            f"{named}"
        )


def print_in_words(console: "Console", event: "Progress | Failure") -> None:
    """A line for a part that begins or has failed."""
    from kd_ray.studies.paper import Failure

    if isinstance(event, Failure):
        line, style = f"{event.part}: failed, {event.reason}", "red"
    else:
        about = f"{event.part}: {event.about} (part {event.number} of {event.parts}, "
        line, style = f"{about}{event.done} of {event.tasks} artefacts finished)", "bold"
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def print_tables(console: "Console", work: "Reproduction") -> None:
    """A table for each experiment that is finished."""
    from kd_ray.cli.tables import fitting_table

    tables = work.write()
    for experiment in work.experiments:
        if lines := tables.get(experiment.name):
            rows = [line.cells() for line in lines]
            console.print(fitting_table(experiment.title, rows, console.width, ("seeds", "unit")))
            console.print()
