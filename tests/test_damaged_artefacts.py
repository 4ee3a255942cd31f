"""Files of a finished run that are damaged, or not ours: one sentence or a mended run, no hang."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import fingerprints, tiny_recipe

from kd_ray import evaluate_checkpoint
from kd_ray.artefacts import inspect
from kd_ray.errors import CheckpointError, KdRayError
from kd_ray.pipeline import Run
from kd_ray.report.page import report_page
from kd_ray.runs.folder import read_run

RECIPE = tiny_recipe(
    "student.model={ name = 'convnet', groups = [[4], [8]] }",
    "student.quantizer={ weight_bits = 2, activation_bits = 1 }",
    "specialists={ count = 2, classes_each = 5, train = { epochs = 1 } }",
    "train.seeds=[0]",
)
"""Its run has every kind of artefact, and layers in its histories."""

STUDENT = Path("student/distilled/seed-0")
WEIGHTS = STUDENT / "epoch-0002/model.safetensors"
OTHERS: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "x" * 300,
    "../..",
    [],
    [[1]],
    {},
    {"a": 1},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; never changed."""
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    list(Run(RECIPE, folder, local=True).events())
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value inside of another."""
    inside = value if isinstance(value, dict) else dict(enumerate(value))
    for key, part in inside.items():
        yield (key,)
        if isinstance(part, dict | list):
            yield from ((key, *rest) for rest in places(part))


def altered(draw: random.Random, text: str) -> str:
    """JSON in which one value is gone, or of another type."""
    content = json.loads(text)
    *way, last = draw.choice(list(places(content)))
    inner = content
    for key in way:
        inner = inner[key]
    if draw.random() < 0.3:
        del inner[last]
    else:
        inner[last] = draw.choice(OTHERS)
    return json.dumps(content)


def sentences(folder: Path, name: str, count: int, read: Callable[[Path], object]) -> list[str]:
    """The answers to as many damaged files, each whole again after it."""
    draw, refused = random.Random(name), []
    for _ in range(count):
        file = draw.choice(sorted(folder.rglob(name)))
        before = file.read_text(encoding="utf-8")
        file.write_text(altered(draw, before), encoding="utf-8")
        try:
            read(file)
        except KdRayError as error:
            refused.append(str(error))
        file.write_text(before, encoding="utf-8")
    return refused


@pytest.mark.parametrize("name", ["result.json", "meta.json", "manifest.json"])
def test_a_description_with_another_value_anywhere_is_read_or_refused(copied: Path, name: str):
    refused = sentences(copied, name, 40, lambda file: inspect(file.parent))
    assert refused
    assert all(name in sentence and "\n" not in sentence for sentence in refused)


def test_a_report_of_records_with_other_values_is_drawn_or_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kd_ray.report.plots.svg_of", lambda figure, title: "")
    assert sentences(copied, "result.json", 8, lambda file: report_page(read_run(copied)))


@pytest.mark.parametrize("name", [WEIGHTS, WEIGHTS.with_name("meta.json"), STUDENT / "result.json"])
def test_what_waits_for_good_where_a_file_should_be_is_refused(copied: Path, name: Path):
    file = copied / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=str(file.parent)):
        evaluate_checkpoint(file.parent)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=str(file.parent)):
        evaluate_checkpoint(file.parent)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [Path.unlink, emptied, cut])
def test_a_run_whose_files_are_gone_is_not_finished_and_makes_them_again(
    copied: Path, harm: Callable[[Path], None]
):
    before, weights = fingerprints(copied), copied / WEIGHTS
    shard = copied / "transfer_set/train-00000.parquet"
    harm(shard)
    list(Run(RECIPE, copied, local=True).events())
    harm(weights)
    with pytest.raises(CheckpointError, match=f"{weights}: .*remove this epoch's folder and run"):
        list(Run(RECIPE, copied, local=True).events())
    shutil.rmtree(weights.parent)
    list(Run(RECIPE, copied, local=True).events())
    assert weights.is_file()
    assert fingerprints(copied) == before
