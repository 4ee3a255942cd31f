"""The stages of a recipe in order, each skipped when its artefact is whole.

`Run.events` is the whole service in one generator: the command line shows its events, a notebook
may ignore them.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict, Unpack

import tomli_w
import torch

from kd_ray.config import Recipe, Resources, load_recipe
from kd_ray.datasets import dataset_problems, given_root
from kd_ray.errors import ClusterError, ConfigError
from kd_ray.files import committed_file, is_stored, locked, remove_drafts, to_path
from kd_ray.machine import usable_cpus
from kd_ray.models import MODELS, build_model, model_problems
from kd_ray.own_code import allow, is_allowed, refusal
from kd_ray.quant import quantize_
from kd_ray.report.page import write_report
from kd_ray.report.summary import Summary, summarize_results
from kd_ray.result import Result
from kd_ray.runs import (
    Event,
    Finished,
    Inputs,
    Request,
    Task,
    commands_of,
    finished_result,
    groups_of,
    nothing_to,
    perform_group,
    tasks_of,
)
from kd_ray.runs.folder import RECIPE
from kd_ray.runs.variants import Variant
from kd_ray.tracking.listener import check_trackers, tracking
from kd_ray.training.objectives import soft_term_problems
from kd_ray.training.schedule import schedule_problems
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import read_manifest

STORED_CHECKPOINT_S = 2.0
"""Between two checkpoints in an object store; one takes some requests, an epoch may take less."""


def open_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by path or shipped name, checked as far as that is possible without data.

    Args:
        source: path of a TOML file, or the name of a shipped recipe.
        overrides: `key.path=value`, applied in order.

    Raises:
        ConfigError: one message with every problem found.
    """
    return load_recipe(source, overrides, rules=[allowed, catalogue_problems])


def allowed(recipe: Recipe) -> list[str]:
    """Lets the code run that a recipe names, which whoever opens it means; no problem is found."""
    allow(recipe.own_code, recipe.code)
    return []


def catalogue_problems(recipe: Recipe) -> list[str]:
    """What is wrong with the names and options in a recipe, against the catalogues."""
    models, schedules = {"student.model": recipe.student.model}, {"train": recipe.train.schedule}
    if teacher := recipe.teacher:
        given = {"teacher.model": teacher.model}
        given |= {f"teacher.models.{n}": model for n, model in enumerate(teacher.models or [])}
        models |= {place: model for place, model in given.items() if model is not None}
        schedules["teacher.train"] = teacher.train.schedule
    if recipe.specialists is not None:
        schedules["specialists.train"] = recipe.specialists.train.schedule
    found = [refusal(name) for name in sorted(recipe.own_code) if not is_allowed(name)]
    if found:
        return found
    found = dataset_problems("data", recipe.data)
    for place, model in models.items():
        found += model_problems(place, model)
    for place, schedule in schedules.items():
        found += schedule_problems(f"{place}.schedule", schedule.name, schedule.options)
    objective = recipe.objective
    found += soft_term_problems("objective", objective.name, objective.options or {})
    return found + quantizer_problems(recipe)


def quantizer_problems(recipe: Recipe) -> list[str]:
    """What is wrong with `[student.quantizer]` on the student, whatever the images' size."""
    quantizer, student = recipe.student.quantizer, recipe.student.model
    if quantizer is None or model_problems("", student) or set(student.name) & set(":/"):
        return []  # of libraries and own code the shape of the images is to be known
    side = (student.input and student.input.size) or (64 if student.name in MODELS else 224)
    shape = (3, side, side)
    try:
        options = student.model_dump(include={"input"}) | student.options
        model = build_model(student.name, options, shape=shape, classes=2, seed=0)
        quantize_(model, quantizer, shape)
    except ConfigError as error:
        return [f"student.quantizer: {error}"]
    return []


class Where(TypedDict, total=False):
    """Where a run is performed; keyword arguments of everything that performs one.

    Attributes:
        local: in this process, without Ray; breakpoints work.
        address: HOST:PORT of a Ray cluster; None for this machine.
        verbose: let Ray's own log lines through.
    """

    local: bool
    address: str | None
    verbose: bool


@dataclass
class Run:
    """A recipe and the folder that its artefacts lie in.

    Attributes:
        recipe: what to make.
        folder: `runs/<name>`, absolute or in a store.
        local, address, verbose: see `Where`.
        variants: of the student, instead of the recipe's own.
        checkpoint_s: seconds at least from one checkpoint of a training to the next.
        logits: file to import, or its URL, where the recipe has no teacher.
        writes_recipe: into the folder; what is made of a model beside it, is not of its recipe.
        results: of the tasks finished so far, by title; filled by `events`.
    """

    recipe: Recipe
    folder: Path
    local: bool = False
    address: str | None = None
    verbose: bool = False
    variants: Sequence[Variant] = ()
    checkpoint_s: float = 0.0
    logits: str | None = None
    writes_recipe: bool = True
    results: dict[str, Result] = field(default_factory=dict)

    def tasks(self, stages: Sequence[str] | None = None) -> list[Task]:
        """What has to be there in the end, in order; nothing is checked against the disk.

        Raises:
            ConfigError: a stage that there is not, or one that the recipe has no table for.
        """
        recipe = with_absolute_paths(self.recipe)
        fewest_s = STORED_CHECKPOINT_S if is_stored(self.folder) else 0.0
        return tasks_of(
            Request(
                recipe=recipe,
                run=str(self.folder),
                commands=commands_of(recipe) if stages is None else tuple(stages),
                variants=[Variant(v.name, with_absolute_paths(v.recipe)) for v in self.variants],
                data_root=absolute_root(recipe),
                checkpoint_s=max(self.checkpoint_s, fewest_s),
                logits=None if self.logits is None else str(to_path(self.logits).absolute()),
            )
        )

    def events(self, stages: Sequence[str] | None = None) -> Generator[tuple[Task, Event]]:
        """Performs what is not done yet; yields a `Finished` for what is.

        Raises:
            KdRayError: see its children; what was done until then stays, and is resumed.
        """
        tasks = self.tasks(stages)
        if not tasks:
            raise ConfigError(nothing_to(" or ".join(stages or ()), self.recipe))
        if (given := self.recipe.transfer_set.path) is not None:
            read_manifest(to_path(given))
        check_trackers(self.recipe, self.folder)
        with locked(self.folder), tracking(self.recipe, self.folder) as trackers:
            remove_drafts(self.folder)
            for task, event in self._events(tasks):
                if isinstance(event, Finished):
                    self.results[event.result.title] = event.result
                trackers.note(task, event)
                yield task, event
            trackers.finish(lambda: write_report(self.folder))

    def _events(self, tasks: list[Task]) -> Iterator[tuple[Task, Event]]:
        """Of tasks that are finished first, then of the others."""
        results = [(task, finished_result(task)) for task in tasks]
        # What is made from something still to come is looked at when that is there.
        first, todo = None, []
        for task, result in results:
            if result is None:
                first = first or task.stage
                task.stage.needs(task)
            if result is None or first not in (None, task.stage):
                todo.append(task)
        self._write_recipe()
        for task, result in results:
            if result is not None and task not in todo:
                yield task, Finished(result, existed=True)
        yield from self._perform(todo)

    def _write_recipe(self) -> None:
        if self.writes_recipe:
            write_recipe(self.folder, self.recipe)

    def _perform(self, tasks: list[Task]) -> Iterator[tuple[Task, Event]]:
        if self.local:
            worker, inputs = this_process(self.recipe.resources), Inputs()
            groups = groups_of(tasks)
            return chain.from_iterable(perform_group(each, worker, inputs) for each in groups)
        from kd_ray.on_ray.parallel import perform_parallel

        resources = self.recipe.resources
        return perform_parallel(tasks, resources, address=self.address, verbose=self.verbose)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Writes a recipe beside what is made of it."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    with committed_file(folder / RECIPE) as draft:
        draft.write_text(tomli_w.dumps(table), encoding="utf-8")


def absolute_root(recipe: Recipe) -> str | None:
    """The folder of the dataset's files for workers elsewhere, where one was given."""
    root = given_root(recipe.data)
    return None if root is None else str(root.absolute())


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The same recipe for workers elsewhere, which have another working directory."""
    changed: dict[str, Any] = {
        "student": recipe.student.model_copy(
            update={"model": recipe.student.model.with_absolute_paths()}
        )
    }
    if recipe.teacher is not None:
        changed["teacher"] = recipe.teacher.with_absolute_paths()
    for table, key in (("transfer_set", "path"), ("student", "continues"), ("teacher", "path")):
        options = changed.get(table, getattr(recipe, table))
        if (path := getattr(options, key, None)) is not None:
            changed[table] = options.model_copy(update={key: str(to_path(path).absolute())})
    return recipe.model_copy(update=changed)


def this_process(resources: Resources) -> Worker:
    """The one worker of `--local`.

    Raises:
        ClusterError: several workers, or more threads or GPUs than this machine has.
    """
    if resources.workers != 1:
        raise ClusterError(
            f"--local: is one worker in this process, but resources.workers is "
            f"{resources.workers}; leave --local out, or use --workers 1"
        )
    available = usable_cpus()
    threads = available if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    if threads > available:
        raise ClusterError(
            f"resources.cpus_per_worker: {threads} threads were asked for, but this machine "
            f"has {available} CPUs; use {available} or fewer"
        )
    gpus = torch.cuda.is_available() and resources.gpus_per_worker != 0
    if resources.gpus_per_worker == 1 and not gpus:
        raise ClusterError(
            "resources.gpus_per_worker: 1 GPU was asked for, but this machine has none; "
            "use gpus_per_worker = 0"
        )
    device = torch.device("cuda", torch.cuda.current_device()) if gpus else torch.device("cpu")
    return Worker(rank=0, world=1, device=device, threads=threads)


def run(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    stages: Sequence[str] | None = None,
    variants: Sequence[Variant] = (),
    listener: Callable[[Task, Event], None] | None = None,
    logits: str | Path | None = None,
    **where: Unpack[Where],
) -> Summary:
    """Performs the stages of a recipe, going on where an earlier call left off.

    Args:
        recipe: a recipe, its path, or the name of a shipped one.
        overrides: `key.path=value`; only with a path or a name.
        runs: folder of run folders, or the URL of one in a store, such as s3://bucket/runs.
        stages: some of "teach", "label", "specialize", "distill", in this order; None for all that
            the recipe has.
        variants: of the student, instead of the recipe's own; see `runs.variants`.
        listener: called with every task and event, such as a `loop.Epoch`.
        logits: a file that the transfer set is made of, where the recipe has no teacher.
        where: see `Where`.

    Returns:
        The figures of everything in the run folder that these stages made or found.

    Raises:
        KdRayError: see its children; what was done until then stays, and is resumed.
    """
    opened = recipe if isinstance(recipe, Recipe) else open_recipe(recipe, overrides)
    work = Run(opened, to_path(runs).absolute() / opened.name, **where, variants=variants)
    work.logits = None if logits is None else str(logits)
    with closing(work.events(stages)) as events:  # a traceback that is kept would keep the lock
        for task, event in events:
            if listener is not None:
                listener(task, event)
    return summarize_results(work.folder, list(work.results.values()))
