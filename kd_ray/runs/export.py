"""The stage that exports models: one file format of one model, compared before it is kept."""

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from kd_ray.config.export import ExportOptions
from kd_ray.datasets import Dataset
from kd_ray.errors import CheckpointError, ConfigError
from kd_ray.export.compare import check_promise, compared, torch_logits, us_per_image
from kd_ray.export.formats import FORMATS, Subject
from kd_ray.export.net import Array, layers_of
from kd_ray.files import committed_file, scratch_folder, sha256_of
from kd_ray.result import EXPORT, RESULT, Result
from kd_ray.runs.distill import DISTILL
from kd_ray.runs.events import Event
from kd_ray.runs.fit import checkpoint_at
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.make import Made, make
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.variants import own_variant
from kd_ray.training.checkpoint import META, WEIGHTS, read_meta
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.saved_model import load_model, one_thread, untrained
from kd_ray.training.workers import Worker, together
from kd_ray.units import bytes_shown

FOLDER = "export"


@dataclass(frozen=True)
class Source:
    """What is exported, and the test images that it is compared on.

    Attributes:
        plain: the same network in float, untrained, whose time it is compared with.
    """

    subject: Subject
    plain: Subject
    pixels: Array
    labels: torch.Tensor


def check_fingerprint(path: Path, wanted: str | None, dataset: Dataset) -> None:
    """Refuses data that is not what the model at a path was trained on.

    Raises:
        CheckpointError: its fingerprint is not the wanted one.
    """
    if wanted != dataset.fingerprint:
        raise CheckpointError(
            f"{path}: its dataset has fingerprint {wanted}, but {dataset.name} here has "
            f"{dataset.fingerprint}; give the folder of the same files with --data-root"
        )


def _options(task: Task) -> ExportOptions:
    assert task.recipe.export is not None  # else there is no such task
    return task.recipe.export


def _tasks(request: Request) -> list[Task]:
    options = request.recipe.export
    if options is None:
        return []
    of = options.of
    if of is None:
        students = DISTILL.tasks(Request(request.recipe, request.run, ("distill",)))
        own = [task for task in students if task.variant == own_variant(request.recipe)]
        of = [task.folder.relative_to(task.run_folder).as_posix() for task in own]
    return [
        request.task(EXPORTED, made_of=place, format=name)
        for place in of
        for name in options.formats
    ]


def _source_folder(task: Task) -> Path:
    place = PurePosixPath(task.made_of)
    if place.is_absolute() or ".." in place.parts:
        raise ConfigError(
            f"export.of: must name folders below the run's, but got {task.made_of!r}; name one "
            "such as student/distilled/seed-0"
        )
    return task.run_folder / task.made_of


def _parents(task: Task) -> dict[str, str]:
    folder = _source_folder(task)
    if not (folder / META).is_file() and not (folder / RESULT).is_file():
        return {}
    return {"student": read_meta(checkpoint_at(folder)).files[WEIGHTS]}


def _open(task: Task, worker: Worker, inputs: Inputs) -> tuple[Source, dict[str, str]]:
    saved = load_model(checkpoint_at(_source_folder(task)), torch.device("cpu"))
    meta = saved.meta
    if meta.special is not None:
        raise CheckpointError(
            f"{saved.path}: must be a student or a teacher, but is a {meta.kind}, which answers "
            "for its own classes alone; export the student that learned from it"
        )
    dataset = inputs.dataset(task.data)
    check_fingerprint(saved.path, meta.parents.get("dataset"), dataset)
    if dataset.test.images.dtype != torch.uint8:
        raise ConfigError(
            f"{saved.path}: must take pictures of 8 bits to be exported, but {dataset.name} has "
            "frames of recordings; run it with kd-ray, or with torch"
        )
    about = {
        "class_names": meta.class_names,
        "recipe": task.recipe.name,
        "student_sha256": saved.sha256,
    }
    subject, plain = (
        Subject(model, meta.input.shape, meta.input.mean, meta.input.std, about)
        for model in (saved.model, untrained(meta).eval())
    )
    rows = torch.arange(dataset.test.rows)[: _options(task).rows]
    source = Source(subject, plain, dataset.test.images[rows].numpy(), dataset.test.labels[rows])
    return source, {"student": saved.sha256, "dataset": dataset.fingerprint}


def _make(task: Task, worker: Worker, source: Source) -> Generator[Event, None, Made]:
    yield from ()
    with together(worker.device):
        fields = _written(task, source) if worker.is_first else {}
    return fields, 0


def _written(task: Task, source: Source) -> dict[str, Any]:
    """Writes the files aside, compares, and commits them; the fields of the record."""
    made, subject, format = task.folder, source.subject, FORMATS[task.format]
    with scratch_folder(made, "export") as draft, one_thread(torch.device("cpu")):
        format.write(draft, subject)
        runner = format.runner(draft)
        comparison, logits = compared(subject, runner, source.pixels)
        check_promise(task.title, comparison)
        runners: dict[str, Callable[[Array], Array]] = {"": runner}
        runners["torch_"] = partial(torch_logits, source.plain)
        if floats := _float_onnx(source.plain, draft):
            runners["onnx_"] = floats
        times = us_per_image(runners, source.pixels)
        files = {}
        for name in format.files:
            files[name] = {
                "bytes": (draft / name).stat().st_size,
                "sha256": sha256_of(draft / name),
            }
            with committed_file(made / name) as place:
                shutil.copyfile(draft / name, place)
    state = [t for t in subject.model.state_dict().values() if t.is_floating_point()]
    return {
        "metrics": {
            **asdict(comparison),
            **{f"{name}us_per_image": taken for name, taken in times.items()},
            "accuracy": summarize(tally(torch.from_numpy(logits), source.labels))["accuracy"],
            "bytes": files[format.files[0]]["bytes"],
            "float_bytes": sum(4 * tensor.numel() for tensor in state),
        },
        "sha256": files[format.files[0]]["sha256"],
        "format": task.format,
        "files": files,
        "exported_layers": _layers(subject),
    }


def _float_onnx(plain: Subject, draft: Path) -> Callable[[Array], Array] | None:
    """A float network in ONNX Runtime; None where it is not installed, or cannot run that."""
    place = draft / "float"
    place.mkdir()
    with suppress(ConfigError):
        FORMATS["onnx"].write(place, plain)
        return FORMATS["onnx"].runner(place)
    return None


def _layers(subject: Subject) -> list[dict[str, Any]]:
    """The layers of a student that can be listed; what torch takes as it is need not be."""
    try:
        return layers_of(subject.steps)
    except ConfigError:
        return []


def export_line(result: Result) -> str:
    """The clause of a finished export: what it is worth."""
    figures = result.metrics
    smaller = figures["float_bytes"] / figures["bytes"]
    return (
        f"{bytes_shown(figures['bytes'])}, {smaller:.1f} times smaller than its float weights; "
        f"{agreement(figures)} classes as torch gives them"
    )


def agreement(figures: Mapping[str, float]) -> str:
    """How many images have the class that torch gives them.

    >>> agreement({"agreement": 0.9999, "rows": 10_000})
    '9,999 of 10,000'
    """
    return f"{round(figures['agreement'] * figures['rows']):,} of {figures['rows']:,}"


def layer_lines(result: Result) -> Sequence[str]:
    """The layers that stayed float, and how many images a rounding of theirs touches."""
    floats = [layer["name"] for layer in result.details["exported_layers"] if layer["is_float"]]
    touched = int(result.metrics["touched"])
    lines = [f"in float: {', '.join(floats)}"] if floats else []
    if touched:
        images = "1 image has" if touched == 1 else f"{touched:,} images have"
        lines.append(f"{images} a code that torch's float sums round to its neighbour")
    return lines


EXPORTED = Stage(
    name="export",
    kind=EXPORT,
    commands=("export",),
    table="export",
    tasks=_tasks,
    title=lambda task: f"{task.made_of} as {task.format}",
    folder=lambda task: task.run_folder / FOLDER / task.made_of / task.format,
    identity=lambda task: {"export": {"format": task.format, "rows": _options(task).rows}},
    parents=_parents,
    perform=partial(make, _open, _make),
    summary=export_line,
    details=layer_lines,
)
