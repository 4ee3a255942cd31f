"""`kd-ray explain`: the lessons, as pages, and measured anew."""

from typing import Annotated

import typer

from kd_ray.cli.options import TrainingOptions, answered
from kd_ray.errors import ConfigError


@answered
def explain(
    lesson: Annotated[
        str | None, typer.Argument(help="Lesson to explain; without one they are listed.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where files go; by default, here.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Measure the lesson, or all of them, anew: a table and a plot for each."
        ),
    ] = False,
    *,
    training: TrainingOptions,
) -> None:
    """Explain distillation in eight lessons with measured plots; a page for each."""
    if not rerun and training != TrainingOptions():
        raise ConfigError(
            "explain: options of how to train go with --rerun only, which is not given; add it, or "
            "leave them out"
        )
    if (rerun and show) or (not rerun and lesson is None and (to is not None or show)):
        raise ConfigError(
            "explain: --open and --to are for the page of one lesson, --to for --rerun as well; "
            "name a lesson such as temperature"
        )
    if rerun:
        from kd_ray.cli.studies import study_with_display
        from kd_ray.lessons.rerun import lessons_study

        only, runs = [lesson] if lesson else [], training.runs
        study = lessons_study(only, training.sets(), runs=runs, to=to, **training.where)
        study_with_display(study, runs)
        return
    if lesson is None:
        from kd_ray.lessons.plan import LESSONS

        width = max(map(len, LESSONS))
        for name, each in LESSONS.items():
            typer.echo(f"{name:{width}}  {each.title}")
        return
    from kd_ray.lessons.page import write_lesson

    page = write_lesson(lesson, to or ".")
    typer.echo(f"{page}: written")
    if show:
        typer.launch(str(page))
