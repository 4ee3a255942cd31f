"""The eight lessons: what is trained for each, and what is measured of it.

All of them start from the recipe `quickstart`, on handwritten digits that need no network, so that
all are measured anew in minutes. They differ in what a lesson is about, and in nothing else.
"""

from collections.abc import Mapping
from statistics import median

from kd_ray.lessons.lesson import Lesson, LessonPoint, LessonRun, level, over
from kd_ray.result import JOINT_SET, STUDENT, TEACHER, Result
from kd_ray.runs.variants import DISTILLED, SPECIALIZED

BASE = "quickstart"
DIGITS = LessonRun("digits", "the teacher and its transfer set", stages=("teach", "label"))
"""What most lessons learn from."""

ERRORS, GAIN = "test errors", "errors of the generalist that specialists take away"
BY_LABELS = ("objective.hard_weight=1", "objective.soft_weight=0")
BY_SOFT_TARGETS = ("objective.hard_weight=0", "objective.soft_weight=T^2")
SEEDS = (0, 1, 2)


def errors(result: Result) -> float:
    """On the test split, as of all that follow."""
    return float(result.metrics["errors"])


def loss(result: Result) -> float:
    """Mean negative log-likelihood in nats."""
    return float(result.metrics["loss"])


def ensemble_errors(result: Result) -> float:
    """Of the teachers that a student learned from, as one."""
    return float(result.metrics["teacher_errors"])


def packed_kb(result: Result) -> float:
    """Size in kB with weights at their bits."""
    return (result.packed_bytes or 0) / 1000


def pull(result: Result) -> float:
    """Gradient of the soft term over that of the labels; half of the looks are below it."""
    looks = [record for record in result.history if "soft_gradient" in record]
    return median(float(record["soft_gradient"] / record["hard_gradient"]) for record in looks)


def joint_errors(result: Result) -> float:
    """Of a generalist with its specialists."""
    return float(result.details["combined"]["errors"])


def joint_gain(result: Result) -> float:
    """How many errors of the generalist its specialists take away."""
    return float(result.details["generalist"]["errors"] - result.details["combined"]["errors"])


def _on(name: str, about: str, *overrides: str) -> LessonRun:
    """Students of the digits' own transfer set."""
    return LessonRun(name, about, overrides, DIGITS.name, DIGITS.name, ("distill",))


def _temperature() -> Lesson:
    warm = ("objective.temperature={}", *BY_SOFT_TARGETS)
    runs, points = [DIGITS], list[LessonPoint]()
    for units in (32, 8):
        name, panel = f"temperature-{units}", {f"{units} units: {ERRORS}": errors}
        model = f"student.model.hidden=[{units}]"
        runs.append(_on(name, f"students of {units} units at temperatures", model))
        points += over("soft targets at T", "distilled", (1, 2, 4, 8, 16), name, panel, *warm)
        points += level("labels", "labels", name, panel, *BY_LABELS)
        points += level("teacher", "teacher", DIGITS.name, panel)
    return Lesson("Temperature", "temperature T", "errors", tuple(runs), tuple(points))


def _soft_weight() -> Lesson:
    run = _on("soft-weight", "students of both terms at temperatures")
    panels = {ERRORS: errors, "pull of the soft term": pull}
    points = [
        *over("c = T^2", "distilled", (1, 2, 4, 8, 16), run.name, panels, *_weighed("T^2")),
        *over("c = 1", "smoothing", (1, 2, 4, 8, 16), run.name, panels, *_weighed("1")),
        *level("labels", "labels", run.name, {ERRORS: errors}, *BY_LABELS),
    ]
    return Lesson("The soft weight and T^2", "temperature T", "", (DIGITS, run), tuple(points))


def _weighed(c: str) -> tuple[str, ...]:
    return ("objective.temperature={}", f"objective.soft_weight={c}")


def _soft_targets() -> Lesson:
    shares = (0.05, 0.1, 0.25, 1)
    runs = [
        LessonRun(
            f"share-{share:g}",
            f"students of {share:.0%} of the images",
            (f"transfer_set.fraction={share}", "train.epochs=120"),
            DIGITS.name,
        )
        for share in shares
    ]
    panels, own = {ERRORS: errors}, "share-{}"
    dkd = "objective={ name = 'dkd', options = { alpha = %d, beta = %d } }"
    points = [
        *over("labels", "labels", shares, own, panels, *BY_LABELS),
        *over("smoothed labels", "smoothing", shares, own, panels, *BY_LABELS, SMOOTH),
        *over("how sure of the label", "softened-labels", shares, own, panels, dkd % (1, 0)),
        *over("the other classes", "specialized", shares, own, panels, dkd % (0, 1)),
        *over("soft targets", "distilled", shares, own, panels),
    ]
    title, choice = "What soft targets carry", "share of the images"
    return Lesson(title, choice, "errors", (DIGITS, *runs), tuple(points))


SMOOTH = "train.label_smoothing=0.1"


def _regularization() -> Lesson:
    few = ("transfer_set.fraction=0.1",)
    run = LessonRun("few", "students of a tenth of the images, for long", few, DIGITS.name)
    panels, epochs = {ERRORS: errors, "test loss in nats": loss}, (20, 80, 320, 1280)
    longer = "train.epochs={}"
    points = [
        *over("labels", "labels", epochs, run.name, panels, *BY_LABELS, longer),
        *over("smoothed labels", "smoothing", epochs, run.name, panels, *BY_LABELS, SMOOTH, longer),
        *over("soft targets", "distilled", epochs, run.name, panels, *BY_SOFT_TARGETS, longer),
    ]
    title = "Distillation as regularization"
    return Lesson(title, "epochs", "", (DIGITS, run), tuple(points))


def _views() -> Lesson:
    seen = (
        *("student.model.hidden=[200]", "train.lr=3e-3"),
        *("transfer_set.fraction=0.25", "transfer_set.views=16"),
        "transfer_set.augment={ shift = 1, rotate = 10.0 }",
        *BY_SOFT_TARGETS,
    )
    run = LessonRun("views", "students of a quarter of the images, in views", seen, DIGITS.name)
    panels, epochs = {ERRORS: errors}, (30, 120, 480, 1920)
    points = [
        point
        for views, colour in ((1, "labels"), (4, "smoothing"), (16, "distilled"))
        for point in over(
            f"{views} view{'s' * (views > 1)}",
            colour,
            epochs,
            run.name,
            panels,
            "train.epochs={}",
            f"student.views={views}",
        )
    ]
    points += level("teacher", "teacher", DIGITS.name, panels)
    return Lesson("Views and patience", "epochs", "errors", (DIGITS, run), tuple(points))


def _ensembles() -> Lesson:
    members = (
        *("student.model.hidden=[8]", "objective.temperature=1", "teacher.members=10"),
        "teacher.model={ name = 'mlp', hidden = [8] }",
        "teacher.train={ epochs = 60, batch_size = 64, lr = 1e-2, schedule = 'constant' }",
    )
    run = LessonRun("members", "ten small teachers, and students of their size", members)
    panels, counts = {ERRORS: errors}, (1, 2, 5, 10)
    chosen = ("objective.members={}", *BY_SOFT_TARGETS)
    points = [
        *over("their student", "distilled", counts, run.name, panels, *chosen),
        *over("the ensemble", "teacher", counts, run.name, {ERRORS: ensemble_errors}, *chosen),
        *level("student on labels", "labels", run.name, panels, *BY_LABELS),
    ]
    return Lesson("Ensembles", "members M", "errors", (run,), tuple(points))


def _specialists() -> Lesson:
    counts = (2, 3, 5)
    runs, points = list[LessonRun](), list[LessonPoint]()
    lines = (
        ("generalist", "teacher", TEACHER, "", errors),
        ("with specialists", "specialized", JOINT_SET, "", joint_errors),
        ("student of the generalist", "labels", STUDENT, DISTILLED, errors),
        ("student of all", "distilled", STUDENT, SPECIALIZED, errors),
        ("with specialists", "specialized", JOINT_SET, "", joint_gain),
    )
    for count in counts:
        names = tuple(f"specialists-{count}-{seed}" for seed in SEEDS)
        runs += [
            _specialists_run(name, count, seed) for name, seed in zip(names, SEEDS, strict=True)
        ]
        for line, colour, kind, variant, measure in lines:
            panel = GAIN if measure is joint_gain else ERRORS
            points.append(
                LessonPoint(panel, line, colour, count, names, measure, variant, kind=kind)
            )
    return Lesson("Specialists", "specialists", "", tuple(runs), tuple(points))


def _specialists_run(name: str, count: int, seed: int) -> LessonRun:
    return LessonRun(
        name,
        f"{count} specialists, seed {seed}",
        (
            *("student.model.hidden=[8]", "teacher.model={ name = 'mlp', hidden = [8] }"),
            f"teacher.train={{ epochs = 60, batch_size = 64, lr = 1e-2, seed = {seed} }}",
            f"specialists={{ count = {count}, classes_each = 4, temperature = 4, seed = {seed} }}",
            f"specialists.train={{ epochs = 40, batch_size = 64, lr = 3e-3, seed = {seed} }}",
            *("objective.temperature=2", f"train.seeds=[{seed}]"),
        ),
        stages=("teach", "label", "specialize", "distill"),
    )


def _bits() -> Lesson:
    bits, name = (1, 2, 4, 8), "bits-{}"
    runs = [
        _on(
            f"bits-{count}",
            f"students of {count}-bit weights",
            "student.model={ name = 'convnet', groups = [[8], [16, 16]] }",
            f"student.quantizer={{ weight_bits = {count}, activation_bits = 2 }}",
            "train.epochs=30",
        )
        for count in bits
    ]
    panels = {ERRORS: errors, "size, kB": packed_kb}
    points = [
        *over("on labels", "labels", bits, name, {ERRORS: errors}, *BY_LABELS),
        *over("distilled", "distilled", bits, name, panels),
        *level("teacher", "teacher", DIGITS.name, {ERRORS: errors}),
    ]
    return Lesson("Bits", "bits of the weights", "", (DIGITS, *runs), tuple(points))


LESSONS: Mapping[str, Lesson] = {
    "temperature": _temperature(),
    "soft-weight": _soft_weight(),
    "soft-targets": _soft_targets(),
    "regularization": _regularization(),
    "views": _views(),
    "ensembles": _ensembles(),
    "specialists": _specialists(),
    "bits": _bits(),
}
"""Name -> lesson, in the order of reading."""
