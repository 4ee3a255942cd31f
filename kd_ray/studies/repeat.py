"""A recipe repeated from other seeds, teachers included: do its figures hold for another teacher?

The spread over student seeds of one run says nothing of its teacher, whom all of them share. Here
every repeat has teachers, a transfer set and a student of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Unpack

from kd_ray.config import Recipe
from kd_ray.errors import ConfigError
from kd_ray.files import write_json
from kd_ray.pipeline import Run, Where, open_recipe
from kd_ray.report.html import Section, rendered, write_page
from kd_ray.report.plots import error_dots
from kd_ray.report.summary import Figure, Row, Summary
from kd_ray.runs import commands_of
from kd_ray.studies.study import Answer, Study, StudyPart, check_overrides
from kd_ray.versions import versions

RESULTS, PAGE = "results.json", "report.html"
OURS = ("teacher.train.seed", "train.seeds", "specialists.seed", "specialists.train.seed")
"""Keys that tell the repeats apart, and so are not the user's."""
LEAVING = ("agreement %", "calibration error %")
NOTE = (
    "Mean and sample standard deviation over repeats, each with teachers, a transfer set and one "
    "student of each kind of its own: seed S in place of 0, and of an ensemble the next ones."
)


def repeat(
    recipe: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    *,
    runs: Path,
    **where: Unpack[Where],
) -> Study:
    """The study of the same recipe from several seeds; nothing is trained yet.

    Args:
        recipe: its path or shipped name.
        seeds: of the repeats.
        overrides: `key.path=value`, for every repeat.
        runs: absolute folder of folders, or the URL of one in a store.
        where: see `pipeline.Where`.

    Raises:
        ConfigError: fewer than two seeds or one twice, or a recipe whose teachers are finished.
    """
    check_overrides(overrides, OURS)
    opened = open_recipe(recipe, overrides)
    _check(opened, seeds)
    folder = runs / f"{opened.name}-repeat"
    parts = []
    for seed in seeds:
        own = open_recipe(recipe, [*overrides, *_seeded(opened, seed)])
        run = Run(own, folder / own.name, **where)
        parts.append(StudyPart(own.name, "everything from another seed", run, commands_of(own)))
    return Study(folder, parts, partial(_answer, folder, parts), LEAVING)


def _check(recipe: Recipe, seeds: Sequence[int]) -> None:
    if len({*seeds}) < max(2, len(seeds)) or min(seeds) < 0:
        raise ConfigError(
            f"seeds: must be at least two, from 0 on, each once, but got {list(seeds)}"
        )
    teacher = recipe.teacher
    if recipe.transfer_set.path or teacher is None or teacher.path or not teacher.train.epochs:
        raise ConfigError(
            f"recipe {recipe.name}: repeats train teachers of their own, but it has finished ones; "
            "give it a [teacher] to train, or more train.seeds, which repeat the students"
        )


def _seeded(recipe: Recipe, seed: int) -> list[str]:
    """Overrides of a repeat; members and specialists count their seeds on from the first one's."""
    assert recipe.teacher is not None  # by the rules
    sets = [
        f"name=seed-{seed}",
        f"teacher.train.seed={seed * recipe.teacher.members}",
        f"train.seeds=[{seed}]",
    ]
    if special := recipe.specialists:
        sets += [f"specialists.seed={seed}", f"specialists.train.seed={seed * special.count}"]
    return sets


def _answer(folder: Path, parts: Sequence[StudyPart], unfinished: Mapping[str, str]) -> Answer:
    summaries = {part.name: part.summary for part in parts if part.name not in unfinished}
    rows = over_repeats(list(summaries.values()))
    cells = [{"repeats" if k == "seeds" else k: v for k, v in row.cells().items()} for row in rows]
    gaps = [100 * s.gap_closed for s in summaries.values() if s.gap_closed is not None]
    closed = Figure.of(gaps) if gaps else None
    lines = [f"Gap closed: {closed.shown(0)} %."] if closed else []
    errors = {row.name: row.metrics["errors"].values for row in rows}
    taught = errors.pop("teacher", ())
    write_json(
        folder / RESULTS,
        {
            "name": folder.name,
            "status": "unfinished" if unfinished else "finished",
            "unfinished": list(unfinished),
            "failed": {part: why for part, why in unfinished.items() if why},
            "models": {
                row.name: {name: asdict(figure) for name, figure in row.metrics.items()}
                for row in rows
            },
            "gap_closed_percent": asdict(closed) if closed else None,
            "versions": versions(),
        },
    )
    section = Section("", [NOTE, *lines], error_dots("", errors, taught) if errors else "", cells)
    page = rendered(
        "study",
        title=f"{folder.name}: the same recipe from other seeds",
        about=[],
        unfinished=[f"{part}: {why}" if why else part for part, why in unfinished.items()],
        sections=[section],
    )
    files = [folder / RESULTS, write_page(folder / PAGE, page)]
    title = " ".join([f"{folder.name}: {len(summaries)} repeats.", *lines])
    return Answer([Section(title, rows=cells)] if rows else [], files)


def over_repeats(summaries: Sequence[Summary]) -> list[Row]:
    """Rows whose figures have a value for each repeat: the mean of its models of that kind."""
    if not summaries:
        return []

    def over(name: str) -> Row:
        rows = [row for summary in summaries if (row := summary.row(name)) is not None]
        metrics = {
            metric: Figure.of([row.metrics[metric].mean for row in rows])
            for metric in rows[0].metrics
        }
        first, seconds = rows[0], Figure.of([row.seconds.mean for row in rows])
        return Row(name, metrics, first.parameters, seconds)

    return [over(row.name) for row in summaries[0].rows]
