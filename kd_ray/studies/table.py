"""The table of a study in one run folder: a line for each choice, with its figures over seeds."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_ray.files import committed_file
from kd_ray.report.summary import Row

FIGURES = ("accuracy", "errors", "agreement")


@dataclass(frozen=True)
class TableLine:
    """Students that differ from those of other lines in one choice.

    Attributes:
        choice: column -> value, what was chosen.
        cells: heading -> text, as a person reads it.
        figures: of the students, on the test split.
        costs: column -> value, what the choice costs.
    """

    choice: Mapping[str, object]
    cells: Mapping[str, str]
    figures: Row
    costs: Mapping[str, float | None] = field(default_factory=dict)


def write_table(path: Path, lines: Sequence[TableLine]) -> Path:
    """Writes lines as CSV, with mean and spread of `FIGURES`, and returns the path.

    Raises:
        StorageError: it cannot be written.
    """
    headings = [f"{figure}_{what}" for figure in FIGURES for what in ("mean", "spread")]
    with committed_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*lines[0].choice, "seeds", *headings, *lines[0].costs])
        for line in lines:
            figures = [line.figures.metrics[name] for name in FIGURES]
            values = [value for figure in figures for value in (figure.mean, figure.spread)]
            seeds = len(line.figures.seconds.values)
            writer.writerow([*line.choice.values(), seeds, *values, *line.costs.values()])
    return path
