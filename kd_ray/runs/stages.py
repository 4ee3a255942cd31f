"""The table of stages, in the order in which they are performed; a new stage is one more line."""

from kd_ray.catalog import pick
from kd_ray.config import Recipe
from kd_ray.runs.combine import COMBINE
from kd_ray.runs.distill import DISTILL
from kd_ray.runs.export import EXPORTED
from kd_ray.runs.group_classes import GROUP_CLASSES
from kd_ray.runs.imported import IMPORT
from kd_ray.runs.label import LABEL
from kd_ray.runs.specialize import SPECIALIZE
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.teach import TEACH

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (TEACH, LABEL, IMPORT, GROUP_CLASSES, SPECIALIZE, COMBINE, DISTILL, EXPORTED)
}


def commands_of(recipe: Recipe) -> tuple[str, ...]:
    """The commands that make everything a recipe describes, in order."""
    stages = STAGES.values()
    described = (s for s in stages if s.table is None or getattr(recipe, s.table) is not None)
    return tuple(dict.fromkeys(stage.commands[0] for stage in described))


def tasks_of(request: Request) -> list[Task]:
    """The artefacts that a run is asked for, those first that others are made from.

    Raises:
        ConfigError: a command that no stage knows, or one that the recipe has no table for.
    """
    known = {command: command for stage in STAGES.values() for command in stage.commands}
    wanted = {pick("stage", known, command) for command in request.commands}
    return [
        task
        for stage in STAGES.values()
        if wanted.intersection(stage.commands)
        for task in stage.tasks(request)
    ]


def nothing_to(stage: str, recipe: Recipe) -> str:
    """The message where a recipe has no artefact that a stage makes."""
    if recipe.transfer_set.path is not None:
        has, advice = "transfer_set.path: names a finished transfer set", "leave it out to make one"
    elif recipe.teacher is not None:
        has, advice = "teacher: labels the transfer set itself", "leave this table out"
    else:
        has, advice = "teacher: this table is left out", "add it"
    return f"{has}, so there is nothing to {stage}; {advice}"
