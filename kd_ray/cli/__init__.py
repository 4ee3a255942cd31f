"""The `kd-ray` command (the roof): assembles every command; nothing imports it.

Neither torch nor ray is imported before a command needs it, so `--help` is quick.
"""

import functools
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kd_ray.catalog import suggestion
from kd_ray.cli.cluster import cluster
from kd_ray.cli.explain import explain
from kd_ray.cli.export import export
from kd_ray.cli.options import (
    CodeOption,
    DataOption,
    RecipeArgument,
    RunsOption,
    SetOption,
    TrainingOptions,
    answered,
    terminate,
)
from kd_ray.cli.pack import pack
from kd_ray.cli.studies import exercises, repeat, reproduce, views
from kd_ray.cli.tune import tune

PLAIN_STAGES = ("teach", "label", "distill")
STAGE_COMMANDS: Mapping[str, tuple[tuple[str, ...] | None, str]] = {
    "run": (
        None,
        "Run every stage of a recipe in order: teach, label, specialists if it has any, distill.",
    ),
    "teach": (("teach",), "Train the teacher (every member of the ensemble)."),
    "label": (("label",), "Write the teacher's logits into the transfer set."),
    "distill": (("distill",), "Train the students: the distilled one, and the recipe's baselines."),
    "specialize": (
        ("teach", "label", "specialize", "distill"),
        "Train specialists for classes that the teacher confuses, their student, and what they "
        "need.",
    ),
}
UsageError: Any = typer.BadParameter.__base__  # Typer gives it no public name


class Commands(TyperGroup):
    """All commands; what is mistyped is answered in one sentence."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Ends the process: with 2 after such a sentence, else as the command says."""
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except UsageError as error:
            problem = error.format_message()
            if option := getattr(error, "option_name", None):
                known = [f for each in error.ctx.command.params for f in each.opts if f[0] == "-"]
                problem = f"no such option {option!r}; {suggestion(option, known)}"
            if problem:  # none where the commands of a group were shown
                typer.echo(f"kd-ray: {problem}", err=True)
            sys.exit(2)


app = typer.Typer(
    name="kd-ray",
    cls=Commands,
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


def perform(
    recipe: str,
    stages: tuple[str, ...] | None,
    training: TrainingOptions,
    logits: str | None = None,
) -> None:
    """Runs stages of a recipe (None: all it has) with a display, then prints the closing table."""
    from kd_ray.cli.run import run_with_display
    from kd_ray.files import to_path
    from kd_ray.pipeline import open_recipe, run

    opened = open_recipe(recipe, training.sets())
    begin = functools.partial(
        run, opened, runs=training.runs, stages=stages, logits=logits, **training.where
    )
    run_with_display(begin, to_path(training.runs) / opened.name)


def _stage_command(stages: tuple[str, ...] | None) -> Callable[..., None]:
    @answered
    def command(recipe: RecipeArgument, training: TrainingOptions) -> None:
        perform(recipe, stages, training)

    return command


for name, (stages, about) in STAGE_COMMANDS.items():
    app.command(name, help=about)(_stage_command(stages))
for study in (exercises, views, repeat, reproduce):
    app.command()(study)
for each in (export, pack, explain):
    app.command()(each)


@app.command("import")
@answered
def import_(
    recipe: RecipeArgument,
    logits: Annotated[
        str,
        typer.Option(metavar="FILE", help="File of logits: .npz, .safetensors or .parquet."),
    ],
    overrides: SetOption = None,
    runs: RunsOption = "runs",
) -> None:
    """Make the transfer set of a recipe that has no teacher, from logits made elsewhere."""
    # Nothing is trained, so what a run may use is of no account.
    options = TrainingOptions(local=True, overrides=[*(overrides or []), "resources={}"], runs=runs)
    perform(recipe, ("import",), options, logits)


@app.command()
@answered
def check(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    with_sizes: Annotated[
        bool, typer.Option("--sizes/--no-sizes", help="Open the data to know sizes, or do not.")
    ] = True,
) -> None:
    """Check a recipe, print it with all defaults, and say how large its transfer set will be."""
    import tomli_w

    from kd_ray.datasets.packed.described import packed_lines
    from kd_ray.pipeline import open_recipe
    from kd_ray.runs.sizes import size_lines

    opened = open_recipe(recipe, overrides or [])
    for line in packed_lines(opened.data):
        typer.echo(f"# {line}")
    sizes = list(size_lines(opened)) if with_sizes else []
    typer.echo(tomli_w.dumps(opened.model_dump(mode="json", exclude_none=True)), nl=False)
    for line in sizes:
        typer.echo(f"# {line}")


@app.command()
@answered
def evaluate(
    path: Annotated[str, typer.Argument(help="Checkpoint, finished training, or export.")],
    data_root: DataOption = None,
    code: CodeOption = None,
) -> None:
    """Evaluate a checkpoint or an export on the test split of its dataset."""
    from rich.console import Console

    from kd_ray.artefacts import evaluate_checkpoint
    from kd_ray.cli.tables import facts

    metrics = evaluate_checkpoint(path, root=data_root)
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
    code: CodeOption = None,
) -> None:
    """Re-run the teacher on sampled rows; exit 1 if a stored logit is not the teacher's."""
    from kd_ray.artefacts import audit_transfer_set

    sample = None if every else rows
    result = audit_transfer_set(transfer_set, run, root=data_root, sample=sample, seed=seed)
    told = (
        f"{result.rows:,} rows compared with their teacher's logits, "
        f"largest difference {result.largest_error:.2e}"
    )
    whole = "\n  every one is its teacher's, every label is the dataset's"
    if result.imported:
        told = f"{result.imported}, a teacher that cannot be run here; its files are whole"
        whole = ", every label is the dataset's"
    typer.echo(f"{transfer_set}: {told}{whole if result.passed else ''}")
    for what, wrong in (("logits", result.wrong_logits), ("label", result.wrong_labels)):
        for split, row in wrong[:10]:
            typer.echo(f"  {split} row {row}: the {what} stored there are not right")
        if len(wrong) > 10:
            typer.echo(f"  and {len(wrong) - 10} more rows with wrong {what}")
    if not result.passed:
        raise typer.Exit(1)


@app.command()
@answered
def inspect(
    path: Annotated[str, typer.Argument(help="Run folder, or an artefact of any kind.")],
    code: CodeOption = None,
) -> None:
    """Describe what lies at a path."""
    from rich.console import Console

    from kd_ray.artefacts import inspect as look
    from kd_ray.cli.tables import facts

    title, values = look(path)
    Console().print(facts(title, values))


@app.command()
@answered
def report(run: Annotated[str, typer.Argument(help="Run folder to report on.")]) -> None:
    """Write report.html: the figures of a run and its curves, in one file."""
    from kd_ray.report.page import write_report

    typer.echo(f"{write_report(run)}: written")


def main() -> None:
    """Entry point of the executable."""
    warnings.showwarning = warn_in_a_line
    signal.signal(signal.SIGTERM, terminate)
    app()


def warn_in_a_line(message: Warning | str, *place: object, **more: object) -> None:
    """A warning without its class and its place in the code, which say nothing to a user."""
    typer.echo(f"kd-ray: warning: {message}", err=True)
