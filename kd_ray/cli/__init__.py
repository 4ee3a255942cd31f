"""The `kd-ray` command (the roof): assembles every command; nothing imports it.

Neither torch nor ray is imported before a command needs it, so `--help` is quick.
"""

import warnings
from typing import Annotated, TextIO

import typer

from kd_ray.cli.cluster import cluster
from kd_ray.cli.options import (
    DataOption,
    RecipeArgument,
    SetOption,
    TrainingOptions,
    answered,
)
from kd_ray.cli.studies import exercises, reproduce, views
from kd_ray.cli.tune import tune

PLAIN_STAGES = ("teach", "label", "distill")
SPECIAL_STAGES = ("teach", "label", "specialize", "distill")

app = typer.Typer(
    name="kd-ray",
    help="Distributed knowledge distillation on Ray. Any command run again goes on where it was.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(tune)
app.add_typer(cluster)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Distributed knowledge distillation on Ray."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"kd-ray {version_of('kd-ray')}")
        raise typer.Exit


@app.command()
@answered
def quickstart(training: TrainingOptions) -> None:
    """Run the whole path on real handwritten digits, on a CPU, in about a minute."""
    perform("quickstart", PLAIN_STAGES, training)


def perform(recipe: str, stages: tuple[str, ...] | None, training: TrainingOptions) -> None:
    """Runs stages of a recipe (None: all it has) with a display, then prints the closing table."""
    from kd_ray.cli.run import run_with_display

    run_with_display(recipe, stages, training.sets(), training.runs, **training.where)


def _add_stage_command(name: str, stages: tuple[str, ...] | None, about: str) -> None:
    @answered
    def command(recipe: RecipeArgument, training: TrainingOptions) -> None:
        perform(recipe, stages, training)

    app.command(name, help=about)(command)


_add_stage_command(
    "run",
    None,
    "Run every stage of a recipe in order: teach, label, specialists if it has any, distill.",
)
_add_stage_command("teach", ("teach",), "Train the teacher (every member of the ensemble).")
_add_stage_command("label", ("label",), "Write the teacher's logits into the transfer set.")
_add_stage_command(
    "distill",
    ("distill",),
    "Train the students: distilled from the transfer set, and the recipe's baselines.",
)
_add_stage_command(
    "specialize",
    SPECIAL_STAGES,
    "Train specialists for classes that the teacher confuses, and their student; with what they "
    "need.",
)


for study in (exercises, views, reproduce):
    app.command()(study)


@app.command()
@answered
def check(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Check a recipe and print it with all defaults filled in."""
    import tomli_w

    from kd_ray.pipeline import open_recipe

    opened = open_recipe(recipe, overrides or [])
    typer.echo(tomli_w.dumps(opened.model_dump(mode="json", exclude_none=True)), nl=False)


@app.command()
@answered
def evaluate(
    path: Annotated[str, typer.Argument(help="Checkpoint, or folder of a finished training.")],
    data_root: DataOption = None,
) -> None:
    """Evaluate a checkpoint on the test split of its dataset."""
    from rich.console import Console

    from kd_ray.artefacts import evaluate_checkpoint
    from kd_ray.cli.tables import facts

    metrics = evaluate_checkpoint(path, root=str(data_root) if data_root else None)
    Console().print(facts(f"{path}: test split", metrics))


@app.command()
@answered
def audit(
    transfer_set: Annotated[str, typer.Argument(help="Folder of a transfer set.")],
    run: Annotated[
        str | None, typer.Option(help="Run folder of its teachers; its parent folder by default.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows to compare in each split.")] = 1000,
    every: Annotated[bool, typer.Option("--all", help="Compare all rows, not a sample.")] = False,
    seed: Annotated[int, typer.Option(help="Seed that chooses the rows.")] = 0,
    data_root: DataOption = None,
) -> None:
    """Re-run the teacher on sampled rows; exit 1 if a stored logit is not the teacher's."""
    from kd_ray.artefacts import audit_transfer_set

    result = audit_transfer_set(
        transfer_set,
        run,
        root=str(data_root) if data_root else None,
        sample=None if every else rows,
        seed=seed,
    )
    typer.echo(
        f"{transfer_set}: {result.rows:,} rows compared with their teacher's logits, "
        f"largest difference {result.largest_error:.2e}"
    )
    for what, wrong in (("logits", result.wrong_logits), ("label", result.wrong_labels)):
        for split, row in wrong[:10]:
            typer.echo(f"  {split} row {row}: the {what} stored there are not right")
        if len(wrong) > 10:
            typer.echo(f"  and {len(wrong) - 10} more rows with wrong {what}")
    if not result.passed:
        raise typer.Exit(1)
    typer.echo("  every one is its teacher's, every label is the dataset's")


@app.command()
@answered
def inspect(
    path: Annotated[str, typer.Argument(help="Run folder, checkpoint or transfer set.")],
) -> None:
    """Describe what lies at a path."""
    from rich.console import Console

    from kd_ray.artefacts import inspect as look
    from kd_ray.cli.tables import facts

    title, values = look(path)
    Console().print(facts(title, values))


@app.command()
@answered
def report(
    run: Annotated[str, typer.Argument(help="Run folder to report on.")],
) -> None:
    """Write report.html: the figures of a run and its curves, in one file."""
    from kd_ray.report.page import write_report

    typer.echo(f"{write_report(run)}: written")


def main() -> None:
    """Entry point of the executable."""
    warnings.showwarning = warn_in_a_line
    app()


def warn_in_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning without the place in the code, which says nothing to a user."""
    typer.echo(f"kd-ray: warning: {message}", err=True)
