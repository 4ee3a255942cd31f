"""Studies of many runs, with their tables: `kd-ray exercises`, `views`, `repeat`, `reproduce`."""

from typing import TYPE_CHECKING, Annotated

import typer

from kd_ray.cli.options import (
    RecipeArgument,
    TrainingOptions,
    answered,
    numbers_in,
    whole_numbers_in,
)

if TYPE_CHECKING:
    from rich.console import Console

    from kd_ray.studies.study import PartBegins, PartFailed, Study


@answered
def exercises(
    recipe: RecipeArgument = "svhn-q3",
    temperatures: Annotated[
        str,
        typer.Option(
            "--temperatures", help="Temperatures T of the soft terms, with commas between."
        ),
    ] = "1,2,4,8,15,20",
    *,
    training: TrainingOptions,
) -> None:
    """Compare labels, soft targets, both and a control over temperatures, from one teacher."""
    from kd_ray.files import to_path
    from kd_ray.pipeline import open_recipe
    from kd_ray.studies.exercises import OVER_TEMPERATURES

    numbers = numbers_in("--temperatures", temperatures)
    runs = to_path(training.runs).absolute()
    opened = open_recipe(recipe, training.sets())
    study = OVER_TEMPERATURES.study(opened, numbers, runs, **training.where)
    study_with_display(study, training.runs)


@answered
def views(
    recipe: RecipeArgument = "mnist-views",
    numbers: Annotated[
        str,
        typer.Option("--views", help="Numbers of stored views to compare, with commas between."),
    ] = "1,2,4,8,16",
    *,
    training: TrainingOptions,
) -> None:
    """Compare numbers of stored views with a teacher that is run in every step on new ones."""
    from kd_ray.files import to_path
    from kd_ray.pipeline import open_recipe
    from kd_ray.studies.views import OVER_VIEWS

    counts = whole_numbers_in("--views", numbers)
    runs = to_path(training.runs).absolute()
    opened = open_recipe(recipe, [*training.sets(), f"transfer_set.views={max(counts)}"])
    study_with_display(OVER_VIEWS.study(opened, counts, runs, **training.where), training.runs)


@answered
def repeat(
    recipe: RecipeArgument,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the repeats, with commas between.")
    ] = "0,1,2",
    *,
    training: TrainingOptions,
) -> None:
    """Run a recipe from other seeds, teachers included: do its figures hold?"""
    from kd_ray.files import to_path
    from kd_ray.studies.repeat import repeat as repeated

    runs = to_path(training.runs).absolute()
    numbers = whole_numbers_in("--seeds", seeds)
    study = repeated(recipe, numbers, training.sets(), runs=runs, **training.where)
    study_with_display(study, training.runs)


@answered
def reproduce(
    name: Annotated[
        str, typer.Argument(help="The experiments: mnist, speech or losses.")
    ] = "mnist",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Train for less time with fewer seeds."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Run this experiment alone; may be repeated."),
    ] = None,
    *,
    training: TrainingOptions,
) -> None:
    """Run the paper's experiments from shared artefacts, and show the paper's figures beside."""
    from kd_ray.studies.reproductions import reproduction_of

    made, runs = reproduction_of(name, quick=quick), training.runs
    study = made.study(training.sets(), runs=runs, only=only or [], **training.where)
    study_with_display(study, runs)


def study_with_display(study: "Study", runs: str) -> None:
    """Performs a study, and prints its tables and what they do not say; `runs` is as it was typed.

    Raises:
        KdRayError: what failed, by name, after everything else is done.
    """
    from contextlib import ExitStack, closing

    from rich.console import Console

    from kd_ray.cli.display import Display
    from kd_ray.cli.run import print_closing
    from kd_ray.cli.tables import fitting_table
    from kd_ray.errors import KdRayError
    from kd_ray.files import to_path
    from kd_ray.studies.study import PartBegins

    console = Console(highlight=False, markup=False)
    with ExitStack() as shown, closing(study.events()) as events:
        display = shown.enter_context(Display(console))
        for event in events:
            if isinstance(event, tuple):
                display.show(*event)
                continue
            shown.close()
            print_in_words(console, event)
            if isinstance(event, PartBegins):
                display = shown.enter_context(Display(console))  # titles are told apart by part
    answer = study.written()
    for section in answer.sections:
        console.print(fitting_table(section.title, section.rows, console.width, study.leaving))
        if len(study.parts) > 1:
            console.print()
    folder = to_path(runs) / study.folder.name
    for path in answer.files:
        there = folder / path.name if path.parent == study.folder else path
        console.print(f"{there}: written", soft_wrap=True)
    if len(study.parts) == 1:
        print_closing(console, study.parts[0].summary, folder)
    if study.failures:
        named = "; ".join(
            f"{each.part} (of {', '.join(each.questions) or 'all experiments'}): {each.reason}"
            for each in study.failures
        )
        raise KdRayError(
            f"{len(study.failures)} of {len(study.parts)} parts failed, the others are finished; "
            f"{named}"
        )


def print_in_words(console: "Console", event: "PartBegins | PartFailed") -> None:
    """A line for a part that begins or has failed."""
    from kd_ray.cli.wording import say
    from kd_ray.studies.study import PartBegins

    if not isinstance(event, PartBegins):
        say(console, f"{event.part}: failed, {event.reason}", style="red")
        return
    how_far = f"part {event.number} of {event.parts}, {event.done} of {event.tasks} artefacts"
    say(console, f"{event.part}: {event.about} ({how_far} finished)", style="bold")
