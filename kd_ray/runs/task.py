"""A task is plain data: which artefact to make, from which recipe, in which run folder.

Also where artefacts lie; nothing is read here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kd_ray.config import Recipe
from kd_ray.files import to_path
from kd_ray.runs.variants import SPECIALIZED


@dataclass(frozen=True)
class Task:
    """One artefact to make.

    Attributes:
        stage: which kind.
        recipe: the resolved recipe as a plain table.
        run: absolute run folder, or its URL.
        data_root: absolute folder of the dataset's files, as the driver found it, or None.
        member: of the ensemble, for "teach"; of the specialists, for "specialize".
        variant: of the student, for "distill".
        seed: of the student, for "distill".
        parents: artefact -> fingerprint or name, of what the task comes from beside its data.
        touch_test: whether the final figures are of the test split, which is the rule; the trials
            of a sweep are judged by the validation rows, and leave the test split alone.
        checkpoint_s: seconds at least from one checkpoint to the next; 0 for one after each epoch.
            The last epoch, the best one where it is kept, and the one at which whoever listens has
            had enough have theirs in any case.
    """

    stage: Literal["teach", "label", "cluster", "specialize", "combine", "distill"]
    recipe: dict[str, Any]
    run: str
    data_root: str | None = None
    member: int = 0
    variant: str = ""
    seed: int = 0
    parents: dict[str, str] = field(default_factory=dict)
    touch_test: bool = True
    checkpoint_s: float = 0.0

    @property
    def title(self) -> str:
        """What a person calls it."""
        titles = {
            "teach": f"teacher {self.member}",
            "label": "transfer set",
            "cluster": "clusters",
            "specialize": f"specialist {self.member}",
            "combine": "specialists' transfer set",
        }
        if self.stage in titles:
            return titles[self.stage]
        return f"student {self.variant}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where its artefact lies."""
        run = to_path(self.run)
        if self.stage == "teach":
            elsewhere = self.recipe["teacher"].get("path")
            return teacher_folder(run if elsewhere is None else to_path(elsewhere), self.member)
        if self.stage == "label":
            return run / "transfer_set"
        if self.stage == "cluster":
            return groups_folder(run)
        if self.stage == "specialize":
            return specialist_folder(run, self.member)
        if self.stage == "combine":
            return joint_folder(run)
        return run / "student" / self.variant / f"seed-{self.seed}"

    def read_recipe(self) -> Recipe:
        """The recipe with the dataset's folder filled in."""
        recipe = Recipe.model_validate(self.recipe)
        data = recipe.data.model_copy(update={"root": self.data_root})
        return recipe.model_copy(update={"data": data})


def teacher_folder(run: Path, member: int) -> Path:
    """Where a member of the ensemble lies below a run folder."""
    return run / "teacher" / f"member-{member:02d}"


def teacher_folders(recipe: Recipe, run: Path) -> list[Path]:
    """Where the members of a run's ensemble lie, in order: below the run, or in `teacher.path`."""
    if recipe.teacher is None:
        return []
    home = run if recipe.teacher.path is None else to_path(recipe.teacher.path)
    return [teacher_folder(home, member) for member in range(recipe.teacher.members)]


def groups_folder(run: Path) -> Path:
    """Where it lies which classes each specialist has."""
    return run / "specialists" / "clusters"


def specialist_folder(run: Path, number: int) -> Path:
    """Where a specialist lies below a run folder."""
    return run / "specialists" / f"member-{number:02d}"


def joint_folder(run: Path) -> Path:
    """The transfer set with the logits of generalist and specialists together."""
    return run / "specialists" / "transfer_set"


def generalist_folder(recipe: Recipe, run: Path) -> Path:
    """The teacher that specialists start from; that of a given transfer set lies beside it."""
    assert recipe.specialists is not None
    path = recipe.transfer_set.path
    if path is not None:
        return teacher_folder(to_path(path).absolute().parent, recipe.specialists.generalist)
    return teacher_folders(recipe, run)[recipe.specialists.generalist]


def transfer_set_folder(recipe: Recipe, run: Path, variant: str = "") -> Path:
    """The transfer set that a run's students of a variant learn from."""
    if variant == SPECIALIZED:
        return joint_folder(run)
    path = recipe.transfer_set.path
    return run / "transfer_set" if path is None else to_path(path)
