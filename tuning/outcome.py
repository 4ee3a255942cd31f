"""What a sweep has come to: its trials as rows, the best of them, and files that say so."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from kd_ray.config import Recipe, SoftWeight, SweepOptions
from kd_ray.errors import ConfigError, StorageError
from kd_ray.files import committed_file, read_json, ruled, write_json
from kd_ray.report.html import rendered
from kd_ray.units import bytes_shown, count_shown
from tuning.ledger import STATES, State
from tuning.space import NO_SOFT_TERM, TEMPERATURE, Settings, names_shown, settings_of, shown
from tuning.trial import COSTS

if TYPE_CHECKING:
    from optuna import Study

TRIALS, BEST, PAGE = "trials.parquet", "best.json", "report.html"
KEPT = ("metrics", "epochs", "seconds", "cause")
"""What the study keeps of a trial under the names of its row."""

_Figures = Annotated[
    dict[str, int | float],
    ruled("accuracy and errors are needed", lambda found: {"accuracy", "errors"} <= found.keys()),
]


class _BestTrial(TypedDict):
    trial: int
    settings: Settings
    validation: _Figures
    test: _Figures
    tests: list[dict[str, Any]]
    epochs: int
    seconds: float | None
    checkpoints: list[str]
    weights_sha256: list[str]
    recipe: dict[str, Any]


class _BestFile(TypedDict):
    metrics: list[str]
    trials: list[_BestTrial]
    earlier: list[_BestTrial]


@dataclass(frozen=True)
class TrialRow:
    """A trial, as far as it has got.

    Attributes:
        number: from 0.
        state: how it ended, or "running".
        settings: key of the recipe -> value.
        metrics: on the validation rows, and costs; means over the seeds.
        values: of the sweep's metrics, in order; empty of one that has not finished.
        history: epoch -> the first metric.
        epochs: trained.
        seconds: of training; None while it runs.
        cause: of a failure.
    """

    number: int
    state: State | str
    settings: Settings
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    history: Mapping[int, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float | None = None
    cause: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep: what was asked, every trial, and the best.

    Attributes:
        folder: absolute or in a store, of the sweep.
        recipe: with `[sweep]`.
        study: Optuna's, for analyses of one's own.
        trials: in the order in which they were handed out.
        best: rows of `best.json`: the winner, or the whole front of several objectives.
        earlier: rows of trials that were the best before the sweep was extended; the test split
            was looked at for these too.
    """

    folder: Path
    recipe: Recipe
    study: "Study" = field(repr=False)
    trials: list[TrialRow] = field(repr=False)
    best: list[dict[str, Any]] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)

    @property
    def options(self) -> SweepOptions:
        """`[sweep]`."""
        assert self.recipe.sweep is not None
        return self.recipe.sweep

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def front(self) -> list[TrialRow]:
        """The best trial, or those that no other beats in all of several metrics; best first."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        signs = [1 if way == "maximize" else -1 for way in self.options.directions]

        def scores(trial: TrialRow) -> tuple[float, ...]:
            return tuple(s * v for s, v in zip(signs, trial.values, strict=True))

        ranked = sorted(finished, key=lambda trial: (scores(trial), -trial.number), reverse=True)
        if len(signs) == 1:
            return ranked[:1]
        front: list[TrialRow] = []
        for trial in ranked:
            mine = scores(trial)
            if not any(all(a >= b for a, b in zip(scores(o), mine, strict=True)) for o in front):
                front.append(trial)
        return front

    def trial(self, number: int | None = None) -> TrialRow:
        """A trial by its number, or the best one.

        Raises:
            ConfigError: there is no such trial, or none has finished.
        """
        if number is None:
            if not self.front:
                raise ConfigError(
                    f"{self.folder}: none of its {len(self.trials)} trials has finished yet; go on "
                    "with the sweep, or choose a trial with --trial"
                )
            return self.front[0]
        if not 0 <= number < len(self.trials):
            raise ConfigError(
                f"{self.folder}: trials are numbered 0 to {len(self.trials) - 1}, "
                f"but {number} was asked for; `kd-ray tune show` lists them"
            )
        return self.trials[number]

    def cells(self, trial: TrialRow) -> dict[str, str]:
        """A trial as a line of a table: heading -> text."""
        settings = shown(trial.settings, self.options)
        cells = {"trial": str(trial.number), "state": trial.state}
        cells |= {name: settings.get(name, "-") for name in names_shown(self.options)}
        cells["epochs"] = str(trial.epochs) if trial.epochs else "-"
        known = {**trial.metrics, **dict(zip(self.options.metrics, trial.values, strict=False))}
        for name in self.options.metrics:
            cells[metric_name(name)] = figure(name, known[name]) if name in known else "-"
        cells["seconds"] = "-" if trial.seconds is None else f"{trial.seconds:,.1f}"
        return cells

    def best_rows(self) -> list[dict[str, str]]:
        """The best trial, or the Pareto front; with the test split where it is known."""
        tests = {entry["trial"]: entry["test"] for entry in self.best}
        rows = []
        for trial in self.front:
            cells = self.cells(trial)
            del cells["state"]
            test = tests.get(trial.number, {})
            accuracy, errors = test.get("accuracy"), test.get("errors")
            cells["test accuracy %"] = "-" if accuracy is None else f"{100 * accuracy:.2f}"
            cells["test errors"] = "-" if errors is None else f"{errors:,.1f}".removesuffix(".0")
            rows.append(cells)
        return rows

    def _repr_html_(self) -> str:
        """The best trials, for notebooks."""
        rows = self.best_rows()
        return rendered("table", rows=rows, lines=[] if rows else ["No trial has finished."])


def metric_name(metric: str) -> str:
    """What a person calls a metric.

    >>> metric_name("accuracy"), metric_name("packed_bytes")
    ('validation accuracy', 'packed bytes')
    """
    return ("" if metric in COSTS else "validation ") + metric.replace("_", " ")


def figure(metric: str, value: float) -> str:
    """A metric as a person reads it.

    >>> figure("accuracy", 0.97), figure("packed_bytes", 49_358), figure("errors", 12.5)
    ('0.9700', '49.4 kB', '12.5')
    """
    if metric == "packed_bytes":
        return bytes_shown(value)
    if metric == "bit_operations":
        return count_shown(value)
    return f"{value:g}" if metric == "errors" else f"{value:.4f}"


def read_trials(study: "Study", options: SweepOptions) -> list[TrialRow]:
    """Every trial that was handed out.

    Raises:
        ValueError: the study is not what the ledger wrote.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        about = {name: trial.user_attrs[name] for name in KEPT if name in trial.user_attrs}
        about["settings"] = settings_of(trial.params, options)
        if trial.state.name == "COMPLETE":
            about["values"] = trial.values
            left_out = {TEMPERATURE} if trial.params.get(NO_SOFT_TERM) else set()
            missing = options.space.keys() - about["settings"].keys() - left_out
            if missing or len(trial.values) != len(options.metrics):
                raise ValueError(f"trial {trial.number} has not all of its parameters and values")
        about |= {"number": trial.number, "history": trial.intermediate_values}
        about["state"] = STATES.get(trial.state.name, "running")
        if trial.state.name != "WAITING":
            rows.append(about)
    return TypeAdapter(list[TrialRow]).validate_python(rows)


def write_trials(sweep: Sweep) -> None:
    """Writes `trials.parquet`: a row for each trial, settings and metrics as columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, number, text = pa.int64(), pa.float64(), pa.string()
    own = {"number": whole, "state": text, "epochs": whole, "seconds": number, "cause": text}
    columns: dict[str, Any] = {
        name: pa.array([getattr(trial, name) for trial in sweep.trials], kind)
        for name, kind in own.items()
    }
    for key, values in sweep.options.space.items():
        column = [trial.settings.get(key) for trial in sweep.trials]
        if values.times:
            column = [None if w is None else SoftWeight.parse(w).factor for w in column]
        elif not all(type(v) in (int, float, type(None)) for v in column):
            column = [None if v is None else str(v) for v in column]
        kind = text if any(isinstance(v, str) for v in column) else number
        columns[f"{key} / T^2" if values.times else key] = pa.array(column, kind)
    for name in sorted({name for trial in sweep.trials for name in trial.metrics}):
        figures = [trial.metrics.get(name) for trial in sweep.trials]
        columns[f"validation.{name}"] = pa.array(figures, number)
    with committed_file(sweep.folder / TRIALS) as draft:
        pq.write_table(pa.table(columns), draft)


def write_best(sweep: Sweep) -> None:
    """Writes `best.json`: the best trials with recipe, validation and test figures."""
    table = {"metrics": sweep.options.metrics, "trials": sweep.best, "earlier": sweep.earlier}
    write_json(sweep.folder / BEST, table)


def read_best(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the best trials, and of those that were the best before, as `write_best` left them.

    Raises:
        StorageError: the file is there, but not what was written.
    """
    try:
        table = read_json(
            folder / BEST, _BestFile, StorageError, "remove it and run the sweep again"
        )
        return table["trials"], table["earlier"]
    except FileNotFoundError:
        return [], []
