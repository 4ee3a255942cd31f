"""A task is plain data: which artefact to make, from which recipe, in which run folder.

Also what a finished task left behind: its folder, its `result.json`, and what determined it.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kd_ray.checkpoint import WEIGHTS, check_identity, epoch_folder, epochs_in, read_meta
from kd_ray.config import Recipe, StudentTrain
from kd_ray.errors import CheckpointError
from kd_ray.files import place
from kd_ray.transfer_set import read_manifest
from kd_ray.transfer_set.manifest import MANIFEST
from kd_ray.variants import ONLINE, SPECIALIZED, variant_options, views_of

RESULT = "result.json"


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
        run = place(self.run)
        if self.stage == "teach":
            elsewhere = self.recipe["teacher"].get("path")
            return teacher_folder(run if elsewhere is None else place(elsewhere), self.member)
        if self.stage == "label":
            return run / "transfer_set"
        if self.stage == "cluster":
            return clusters_folder(run)
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
    home = run if recipe.teacher.path is None else place(recipe.teacher.path)
    return [teacher_folder(home, member) for member in range(recipe.teacher.members)]


def clusters_folder(run: Path) -> Path:
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
        return teacher_folder(place(path).absolute().parent, recipe.specialists.generalist)
    return teacher_folders(recipe, run)[recipe.specialists.generalist]


def transfer_set_folder(recipe: Recipe, run: Path, variant: str = "") -> Path:
    """The transfer set that a run's students of a variant learn from."""
    if variant == SPECIALIZED:
        return joint_folder(run)
    path = recipe.transfer_set.path
    return run / "transfer_set" if path is None else place(path)


def start_checkpoint(task: Task, recipe: Recipe) -> Path | None:
    """The latest checkpoint that `student.continues` means for a task's seed, if there is one."""
    if recipe.student.continues is None:
        return None
    folder = place(recipe.student.continues) / f"seed-{task.seed}"
    epochs = epochs_in(folder)
    return epoch_folder(folder, epochs[-1]) if epochs else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The finished result of an artefact's folder, or None.

    Raises:
        CheckpointError: there is a file, but no result in it.
    """
    file = folder / RESULT
    try:
        result = json.loads(file.read_bytes())
        return dict(result) if result["status"] == "finished" else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: must be a finished result, but cannot be read ({error}); "
            "remove it and run the same again"
        ) from error


def result_model(folder: Path) -> Path:
    """The checkpoint that is the result of a teacher's or student's folder.

    Raises:
        CheckpointError: its training has not finished, or it is the folder of something else.
    """
    result = read_result(folder)
    if result is None:
        raise CheckpointError(
            f"{folder}: training must have finished, but there is no {RESULT}; run it again first"
        )
    if "checkpoint" not in result:
        raise CheckpointError(
            f"{folder}: must be a teacher's, specialist's or student's folder, but is that of the "
            f"{result['title']}; name another"
        )
    return folder / str(result["checkpoint"])


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys.

    >>> flattened({"train": {"lr": 0.1}}, "teacher.")
    {'teacher.train.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def identity(task: Task) -> dict[str, Any]:
    """The part of the recipe that determines an artefact: dotted key -> value."""
    recipe = Recipe.model_validate(task.recipe)
    data = recipe.data.model_dump(mode="json", exclude={"root"})
    if task.stage == "distill":
        objective, train = variant_options(recipe, task.variant)
        parts: dict[str, Any] = {
            "student.model": recipe.student.model.model_dump(mode="json"),
            "objective": objective.model_dump(mode="json", exclude_none=True),
            "train": train.model_dump(mode="json", exclude=_not_of_a_student(train)),
            "seed": task.seed,
        }
        quantizer = quantizer_table(recipe)
        if quantizer is not None:  # a float student's identity is what it was before there was one
            parts["student.quantizer"] = quantizer
        if recipe.student.continues is not None:  # which one it is, the parents say
            parts["student.continues"] = True
        if views_of(task.variant) is not None or task.variant == ONLINE:
            parts["views"] = views_of(task.variant) or ONLINE
        return flattened(parts)
    if recipe.specialists is not None and task.stage in ("cluster", "specialize", "combine"):
        options = recipe.specialists.model_dump(mode="json")
        start = {name: options[name] for name in ("generalist", "count")}
        if task.stage == "cluster":
            chosen = {name: options[name] for name in ("classes_each", "temperature", "seed")}
            return flattened({"specialists": start | chosen})
        if task.stage == "combine":
            return flattened({"specialists": start | {"top_n": options["top_n"]}})
        trained = {"generalist": options["generalist"], "train": options["train"]}
        return flattened({"data": data, "specialists": trained, "member": task.member})
    assert recipe.teacher is not None
    if task.stage == "teach":
        teacher = {
            "model": recipe.teacher.model_of(task.member).model_dump(mode="json"),
            "train": recipe.teacher.train.model_dump(mode="json"),
        }
        return flattened({"data": data, "teacher": teacher, "member": task.member})
    options = recipe.transfer_set.model_dump(mode="json", exclude={"path"})
    members = recipe.teacher.members
    return flattened({"data": data, "transfer_set": options, "teacher.members": members})


def _not_of_a_student(train: StudentTrain) -> set[str]:
    # Students of before there was a hold_out are what they would be now.
    return {"seeds"} if train.hold_out else {"seeds", "hold_out"}


def quantizer_table(recipe: Recipe) -> dict[str, Any] | None:
    """`[student.quantizer]` as a plain table, or None of a float student."""
    quantizer = recipe.student.quantizer
    return None if quantizer is None else quantizer.model_dump(mode="json", exclude_none=True)


def found_result(task: Task) -> dict[str, Any] | None:
    """The result of a task that an earlier run finished, or None; reads no dataset.

    Raises:
        CheckpointError: another recipe, or another parent, made what is in the folder.
    """
    result = read_result(task.folder)
    if result is not None:
        check_identity(task.folder, result["identity"], identity(task))
        _check_parents(task, result)
        return result
    latest = epochs_in(task.folder)
    if latest:
        path = epoch_folder(task.folder, latest[-1])
        check_identity(path, read_meta(path).identity, identity(task))
    return None


def _check_parents(task: Task, result: dict[str, Any]) -> None:
    """Refuses a finished artefact if what it was made from has been made anew since."""
    now = _parents(task)
    check_identity(task.folder, {name: result["parents"].get(name) for name in now}, now)
    if task.stage == "distill":
        label = replace(task, stage="combine" if task.variant == SPECIALIZED else "label")
        labelled = read_result(label.folder)
        if labelled is not None and now.get("transfer_set") == labelled["sha256"]:
            _check_parents(label, labelled)


def _parents(task: Task) -> dict[str, str]:
    """Name -> sha256 of what an artefact is made from, as far as that is there."""
    recipe, run = Recipe.model_validate(task.recipe), place(task.run)
    if task.stage == "distill":
        folder = transfer_set_folder(recipe, run, task.variant)
        start = start_checkpoint(task, recipe)
        there = (folder / MANIFEST).is_file()
        return {
            **({"transfer_set": read_manifest(folder).sha256} if there else {}),
            **({} if start is None else {"checkpoint": read_meta(start).files[WEIGHTS]}),
        }
    if task.stage == "label":
        results = [read_result(folder) for folder in teacher_folders(recipe, run)]
        return {f"teacher-{n:02d}": r["weights_sha256"] for n, r in enumerate(results) if r}
    if task.stage in ("cluster", "specialize", "combine"):
        return _specialists_parents(task, recipe)
    return {}


def _specialists_parents(task: Task, recipe: Recipe) -> dict[str, str]:
    """The same of clusters, a specialist, or the specialists' transfer set."""
    assert recipe.specialists is not None
    run, found = place(task.run), {}
    sources: dict[str, tuple[Path, str]] = {}
    if task.stage == "specialize":
        sources["generalist"] = generalist_folder(recipe, run), "weights_sha256"
        sources["clusters"] = clusters_folder(run), "sha256"
    elif task.stage == "combine":
        for number in range(recipe.specialists.count):
            name = f"specialist-{number:02d}"
            sources[name] = specialist_folder(run, number), "weights_sha256"
    for name, (folder, key) in sources.items():
        result = read_result(folder)
        if result is not None:
            found[name] = str(result[key])
    labelled = transfer_set_folder(recipe, run)
    if task.stage != "specialize" and (labelled / MANIFEST).is_file():
        found["transfer_set"] = read_manifest(labelled).sha256
    return found
