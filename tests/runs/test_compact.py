"""A run with compact logits from end to end: the same files however often it is made."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from painted import pictures
from tiny import (
    ALONE,
    perform,
    refused,
    result_at,
    tasks,
    tiny_file,
    tiny_recipe,
    tiny_teacher,
)

from kd_ray import write_transfer_set
from kd_ray.artefacts import audit_transfer_set, inspect
from kd_ray.datasets import open_dataset
from kd_ray.errors import ConfigError, TransferSetError
from kd_ray.report.summary import summarize_results
from kd_ray.runs.coding import coded
from kd_ray.runs.label import plan_labelling, write_shards
from kd_ray.runs.rows import rows_to_label
from kd_ray.training.saved_model import raw_logits
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import open_transfer_set, read_manifest, write_manifest
from kd_ray.transfer_set.basis_file import BASIS

CLASSES = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pictures(folder, classes=CLASSES, train=3, test=1)
    return folder


def table(images: Path, *overrides: str) -> tuple[str, ...]:
    return (
        f"data={{ name = 'imagefolder', root = '{images}', image_size = 8 }}",
        "transfer_set.dtype='compact'",
        "transfer_set.shard_rows=50",
        "student.baselines=[]",
        *overrides,
    )


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compact")
    perform(tasks(tiny_recipe(*table(images)), folder))
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, Any]:
    names = ("*.parquet", "*.safetensors", "manifest.json")
    return {p.name: p.read_bytes() for name in names for p in folder.glob(name)}


def test_students_read_logits_that_are_near_the_teachers(finished: Path):
    opened = open_transfer_set(finished / "transfer_set")
    assert opened.train.logits.shape == (3 * CLASSES, 1, 1, CLASSES)
    assert opened.manifest.plan.code is not None
    assert opened.manifest.plan.code.row_bytes <= CLASSES // 2
    assert [cost.temperature for cost in opened.manifest.cost] == [1, 4, 20]
    assert all(cost.mean <= cost.largest < 0.02 for cost in opened.manifest.cost)
    assert result_at(finished / "student/distilled/seed-0").metrics["accuracy"] > 0


def test_what_was_lost_is_made_again_bit_for_bit(images: Path, finished: Path, copied: Path):
    folder = copied / "transfer_set"
    before = contents(folder)
    for name in ("manifest.json", "train-00001.parquet"):
        (folder / name).unlink()
    perform(tasks(tiny_recipe(*table(images)), copied)[:2])
    assert contents(folder) == before


def test_a_killed_run_that_has_written_nothing_but_its_basis_goes_on_with_it(
    images: Path, finished: Path, copied: Path
):
    folder = copied / "transfer_set"
    before = contents(folder)
    for path in folder.iterdir():
        if path.name != BASIS:
            path.unlink()
    (folder / BASIS).touch()
    perform(tasks(tiny_recipe(*table(images)), copied)[:2])
    assert contents(folder) == before


def test_audit_passes_and_inspect_says_what_codes_cost(finished: Path):
    found = audit_transfer_set(finished / "transfer_set", sample=None)
    assert found.passed
    assert found.rows == 4 * CLASSES
    _, facts = inspect(finished / "transfer_set")
    assert facts["logits"].startswith("compact, M x K = 1 x 40, ")
    assert "mean KL" in facts["rebuilt, T = 4"]
    results = [result_at(finished / "transfer_set")]
    (line,) = summarize_results(finished, results).sentences()
    assert "bytes per row), labelled in" in line
    assert "; rebuilt with a mean KL in nats of" in line


def test_audit_finds_a_row_with_the_code_of_another(finished: Path, monkeypatch):
    opened = open_transfer_set(finished / "transfer_set")
    opened.train.logits[7] = opened.train.logits[60].clone()
    monkeypatch.setattr("kd_ray.artefacts.audit.open_transfer_set", lambda *_, **__: opened)
    found = audit_transfer_set(finished / "transfer_set", sample=None)
    assert found.wrong_logits == [("train", 7)]


def test_a_basis_that_is_missing_or_altered_is_refused(copied: Path):
    path = copied / "transfer_set" / BASIS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TransferSetError, match=r"basis.safetensors: must be the basis of these"):
        open_transfer_set(copied / "transfer_set")
    path.unlink()
    with pytest.raises(TransferSetError, match=r"basis.safetensors: .* but it is missing; put it"):
        open_transfer_set(copied / "transfer_set")


def test_a_cost_that_was_altered_is_refused(copied: Path):
    path = copied / "transfer_set" / "manifest.json"
    cost = read_manifest(copied / "transfer_set").cost[0]
    path.write_text(path.read_text().replace(f"{cost.largest}", "1e-9"))
    with pytest.raises(TransferSetError, match="does not have the sha256 that it states"):
        read_manifest(copied / "transfer_set")


def test_few_classes_are_refused_before_anything_is_trained(tmp_path: Path):
    recipe = tiny_file(tmp_path, "transfer_set.dtype='compact'")
    answer = refused("run", recipe, "--local", "--runs", tmp_path / "runs", at_once=False)
    assert "'compact' is for 32 classes or more, but digits has 10; set it to" in answer
    assert not (tmp_path / "runs/tiny/teacher/member-00/result.json").exists()


def test_imported_logits_are_refused(images: Path, tmp_path: Path):
    recipe = tiny_recipe(*table(images))
    dataset = open_dataset(recipe.data)
    logits = {"train": torch.randn(dataset.train.rows, CLASSES)}
    with pytest.raises(ConfigError, match="but these are imported; set it to"):
        write_transfer_set(tmp_path / "set", dataset, logits, recipe.transfer_set)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_codes_and_costs_of_two_teachers(
    images: Path, tmp_path: Path, workers: int
):
    recipe = tiny_recipe(*table(images, "transfer_set.shard_rows=16"))
    dataset, options = open_dataset(recipe.data), recipe.transfer_set
    teachers = [tiny_teacher(tmp_path / f"{seed}", dataset, seed) for seed in (1, 2)]
    draft = plan_labelling(dataset, options, teachers, [0.5, 0.5])
    rows = rows_to_label(dataset, options)
    plan, basis = coded(tmp_path / "one", draft, teachers, rows["train"], ALONE)
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    manifests = []
    for folder, world in ((tmp_path / "one", 1), (tmp_path / "many", workers)):
        for rank in range(world):
            worker = Worker(rank, world, ALONE.device, threads=1)
            for _ in write_shards(
                folder,
                plan,
                rows,
                lambda shard, images: raw_logits(teachers, images, ALONE.device),
                worker,
                basis,
            ):
                pass
        manifests.append(write_manifest(folder, plan))
    assert manifests[0] == manifests[1]
    assert len(manifests[0].cost) == 3
    logits = open_transfer_set(tmp_path / "many").train.logits[:, 0]
    exact = raw_logits(teachers, [dataset.train.images], ALONE.device)
    assert float((logits - exact).abs().max()) < 0.5 * float(exact.std())
