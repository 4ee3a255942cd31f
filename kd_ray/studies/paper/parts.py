"""How large the experiments are made, and their run folders: recipes, and the students in them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.config import Recipe, TeacherOptions, TeacherTrain
from kd_ray.pipeline import open_recipe
from kd_ray.runs.variants import DISTILLED, LABELS, SMOOTHING, Variant, derived, variant

FEW, STOPPED = "3-percent", "3-percent-stopped"
ENSEMBLE, ONE_MEMBER, UNLABELLED = "ensemble", "one-member", "unlabelled"

TEMPERATURES = (1.0, 2.0, 2.5, 4.0, 8.0, 20.0)
"""T = 20 is the recipes' own."""

CAREFUL = "train.grad_clip=5.0"
"""On few rows, and on the large logits of nets whose rate did not fall, the soft term of T = 20 is
near the edge of what its learning rate can bear."""

UNANNEALED: Mapping[str, Any] = {"optimizer": "adam", "lr": 1e-3, "schedule": "constant"}
"""How members of the ensemble are trained. A rate that falls to nothing takes all seeds to nets
that err alike, sure of every image that they saw: little is left to average, or to teach."""


@dataclass(frozen=True)
class Scale:
    """How large the experiments are: which recipe they start from, and what they change in it.

    Attributes:
        name: of the folder that holds the run folders.
        base: a recipe's path or shipped name.
        overrides: `key.path=value`, for every run.
        widths: hidden units of both layers of the students; the first one is that of all other
            experiments.
        members: of the ensemble.
        few: the share of the rows with which soft targets are to be a regularizer.
        absent: names of the classes that one transfer set lacks.
        present: names of the only classes of another.
        repeated: part -> how many times as many epochs as the base has; sets of few rows make
            short epochs.
        about: how it differs from what the paper did, in a sentence.
    """

    name: str
    base: str
    overrides: tuple[str, ...] = ()
    widths: tuple[int, ...] = (800, 300, 30)
    members: int = 10
    few: float = 0.03
    absent: tuple[str, ...] = ("3",)
    present: tuple[str, ...] = ("7", "8")
    repeated: tuple[tuple[str, float], ...] = ((FEW, 5.0), (STOPPED, 5.0))
    about: str = ""

    @property
    def first(self) -> str:
        """The run folder with the teacher and the transfer set that others share."""
        return width_part(self.widths[0])


SCALES: Mapping[str, Scale] = {
    # The paper's teacher saw digits that were moved, not turned.
    "mnist": Scale("reproduce-mnist", "mnist", ("teacher.train.augment={ shift = 2 }",)),
    "mnist-quick": Scale(
        "reproduce-mnist-quick",
        "mnist-quick",
        overrides=("objective.hard_weight=0.1", "train.epochs=8", "train.seeds=[0, 1]"),
        repeated=(("7s-8s", 2.0), (FEW, 10.0), (STOPPED, 10.0)),
        about="A quarter of the teacher's epochs, a fifth of the students', two seeds of three.",
    ),
}
"""Name -> scale."""


def width_part(width: int) -> str:
    """The run folder with the students of a width."""
    return f"width-{width}"


@dataclass(frozen=True)
class Part:
    """One run folder.

    Attributes:
        name: of the folder.
        about: what is in it, as a clause.
        overrides: `key.path=value`, after those of the scale and its first width.
        teacher_of: the part whose teachers label; None to train its own.
        set_of: the part whose transfer set is used; None to label its own.
        teaches_students: its teachers are an ensemble of students on labels.
        corrected: classes whose biases are corrected, by name; see `bias`.
    """

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    teacher_of: str | None = None
    set_of: str | None = None
    teaches_students: bool = False
    corrected: tuple[str, ...] = ()


def parts(scale: Scale, class_names: Sequence[str]) -> list[Part]:
    """All run folders, those first whose artefacts others share."""
    first, *narrower = scale.widths
    seen = [name for name in class_names if name not in scale.absent]
    shared = scale.first

    return [
        Part(shared, f"the teacher, its transfer set, students of 2 x {first} units"),
        *(
            Part(width_part(w), f"students of 2 x {w} units", (_hidden(w),), shared, shared)
            for w in narrower
        ),
        Part(
            f"no-{'-'.join(f'{name}s' for name in scale.absent)}",
            f"students of a transfer set without {' or '.join(scale.absent)}",
            (f"transfer_set.classes={json.dumps(seen)}",),
            shared,
            corrected=scale.absent,
        ),
        Part(
            "-".join(f"{name}s" for name in scale.present),
            f"students of a transfer set of nothing but {' and '.join(scale.present)}",
            (f"transfer_set.classes={json.dumps(scale.present)}",),
            shared,
            corrected=scale.present,
        ),
        Part(
            FEW,
            f"students of {100 * scale.few:g} % of the images, to the last epoch",
            (f"transfer_set.fraction={scale.few}", CAREFUL),
            shared,
        ),
        Part(
            STOPPED,
            "the same, a tenth of the rows held out to choose the epoch by",
            ("train.hold_out=0.1", 'train.keep="best"', CAREFUL),
            shared,
            FEW,
        ),
        Part(
            ENSEMBLE,
            f"an ensemble of {scale.members} students on labels, and one net distilled from it",
            (CAREFUL,),
            teaches_students=True,
        ),
        Part(
            ONE_MEMBER,
            "the same net distilled from the first of them alone",
            (CAREFUL, "objective.members=1"),
            ENSEMBLE,
            ENSEMBLE,
            teaches_students=True,
        ),
        Part(
            UNLABELLED,
            "students of a transfer set with the labels of 90 % hidden",
            ("transfer_set.unlabelled=0.9",),
            shared,
        ),
    ]


def _hidden(width: int) -> str:
    return f"student.model.hidden=[{width}, {width}]"


def students_at(own: float) -> dict[str, float]:
    """Students at each of `TEMPERATURES`: name -> T; that of the recipe's own T is as usual."""
    return {DISTILLED if t == own else f"T{t:g}": t for t in TEMPERATURES}


def part_variants(recipe: Recipe, names: Sequence[str]) -> list[Variant]:
    """The students of these names, with their recipes."""
    warm = students_at(recipe.objective.temperature)
    return [
        Variant(name, derived(recipe, objective={"temperature": warm[name]}))
        if name in warm
        else variant(recipe, name)
        for name in names
    ]


def part_recipe(
    scale: Scale,
    part: Part,
    variants: Sequence[str],
    overrides: Sequence[str],
    folders: Mapping[str, str],
) -> Recipe:
    """The recipe of a part.

    Args:
        scale: of the experiments.
        part: one of its parts.
        variants: of the student; those that a recipe can name become its baselines.
        overrides: `key.path=value` of the user, after those of scale and part.
        folders: part -> run folder.

    Raises:
        ConfigError: one message with every problem found.
    """
    sets = [*scale.overrides, _hidden(scale.widths[0]), *part.overrides, *overrides]
    epochs = open_recipe(scale.base, sets).train.epochs * dict(scale.repeated).get(part.name, 1.0)
    sets += [f"name={part.name}", f"train.epochs={max(1, round(epochs))}"]
    named = [variant for variant in variants if variant in (LABELS, SMOOTHING)]
    sets.append(f"student.baselines={named}")
    if part.teacher_of is not None:
        sets.append(f'teacher.path="{folders[part.teacher_of]}"')
    if part.set_of is not None:
        sets.append(f'transfer_set.path="{folders[part.set_of]}/transfer_set"')
    recipe = open_recipe(scale.base, sets)
    return students_as_teachers(recipe, scale.members) if part.teaches_students else recipe


def students_as_teachers(recipe: Recipe, members: int) -> Recipe:
    """The same recipe with an ensemble of its students on labels in its teacher's place.

    They are trained half as long as its students are, at a rate that does not fall.
    """
    assert recipe.teacher is not None
    train = recipe.train.model_dump(exclude={"seeds", "hold_out", "grad_clip"})
    epochs = max(1, recipe.train.epochs // 2)
    teacher = TeacherOptions(
        model=recipe.student.model,
        members=members,
        path=recipe.teacher.path,
        train=TeacherTrain.model_validate({**train, **UNANNEALED, "epochs": epochs}),
    )
    return recipe.model_copy(update={"teacher": teacher})
