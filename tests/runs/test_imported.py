"""Logits from elsewhere: what was labelled here and imported again is what it was."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from tiny import perform, refused, result_at, tasks, tiny_dataset, tiny_table, weights_sha256
from tomli_w import dumps
from typer.testing import CliRunner

import kd_ray
from kd_ray import open_dataset, run, write_transfer_set
from kd_ray.artefacts import audit_transfer_set, inspect
from kd_ray.cli import app
from kd_ray.config import Augment, Recipe, TransferSetOptions
from kd_ray.config.read import parse_recipe
from kd_ray.errors import ConfigError, TransferSetError
from kd_ray.pipeline import Run, catalogue_problems
from kd_ray.report.advice import advice
from kd_ray.report.page import write_report
from kd_ray.transfer_set import SPLITS, TransferSet, open_transfer_set, read_manifest

PLAIN = ("student.baselines=[]", "transfer_set.dtype='float16'")
MANY = (
    *("student.baselines=[]", "data.validation=40", "teacher.members=2"),
    *("transfer_set.views=3", "transfer_set.augment={ shift = 1 }", "transfer_set.fraction=0.7"),
    *("transfer_set.unlabelled=0.2", "transfer_set.dtype='float32'"),
)
DATASET = tiny_dataset()


def without_teacher(*overrides: str) -> dict[str, Any]:
    """The tiny recipe without its teacher, as a table."""
    table = tiny_table(*overrides)
    del table["teacher"]
    return table


def parsed(table: dict[str, Any]) -> Recipe:
    return parse_recipe(table, "tiny", [catalogue_problems])


def recipe_file(folder: Path, *overrides: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(dumps(without_teacher(*overrides)), encoding="utf-8")
    return path


def arrays_of(opened: TransferSet) -> dict[str, np.ndarray]:
    """The logits of a set as `(N, V, M, K)`, with index."""
    found = {}
    for name in SPLITS:
        rows = getattr(opened, name)
        if len(rows.index):
            found |= {name: rows.logits.numpy(), f"{name}.index": rows.index.numpy()}
    return found


def in_rows(arrays: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """The same with a row for each view, in any order."""
    random, found = np.random.default_rng(seed), {}
    for name in (name for name in SPLITS if name in arrays):
        logits, index = arrays[name], arrays[f"{name}.index"]
        order = random.permutation(len(index) * logits.shape[1])
        found[name] = logits.reshape(-1, *logits.shape[2:])[order]
        found[f"{name}.index"] = np.repeat(index, logits.shape[1])[order]
        found[f"{name}.view"] = np.tile(np.arange(logits.shape[1]), len(index))[order]
    return found


def as_npz(run: Path, folder: Path) -> Path:
    path = folder / "logits.npz"
    np.savez_compressed(path, **arrays_of(open_transfer_set(run / "transfer_set")))
    return path


def as_safetensors(run: Path, folder: Path) -> Path:
    path = folder / "logits.safetensors"
    arrays = in_rows(arrays_of(open_transfer_set(run / "transfer_set")))
    save_file({name: torch.from_numpy(value.copy()) for name, value in arrays.items()}, path)
    return path


def as_one_parquet(run: Path, folder: Path) -> Path:
    """Teachers as lists within lists, splits in a column, rows in any order."""
    path = folder / "logits.parquet"
    arrays = in_rows(arrays_of(open_transfer_set(run / "transfer_set")))
    parts = []
    for name in (name for name in SPLITS if name in arrays):
        columns = {key: arrays[f"{name}.{key}"] for key in ("index", "view")}
        split = pa.array([name] * len(columns["index"])).dictionary_encode()
        parts.append(pa.table({**columns, "split": split, "logits": arrays[name].tolist()}))
    pq.write_table(pa.concat_tables(parts, promote_options="default"), path, row_group_size=97)
    return path


def as_it_was_written(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run / "transfer_set", folder / "labelled"))


@pytest.fixture(scope="module", params=[PLAIN, MANY], ids=["plain", "many"])
def labelled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], Path]:
    """Overrides, and a finished run with teachers; never changed."""
    folder = tmp_path_factory.mktemp("labelled")
    perform(tasks(parsed(tiny_table(*request.param)), folder))
    return request.param, folder


@pytest.mark.parametrize("export", [as_npz, as_safetensors, as_one_parquet, as_it_was_written])
def test_labels_that_are_exported_and_imported_teach_the_same_student_bit_for_bit(
    labelled: tuple[tuple[str, ...], Path],
    tmp_path: Path,
    export: Callable[[Path, Path], Path],
):
    overrides, before = labelled
    table = without_teacher(*(text for text in overrides if not text.startswith("teacher.")))
    file = export(before, tmp_path)
    imported = Run(parsed(table), tmp_path / "run", local=True, logits=str(file))
    list(imported.events())
    ours, theirs = (open_transfer_set(f / "transfer_set") for f in (tmp_path / "run", before))
    for name in SPLITS:
        for key in ("index", "labels", "logits"):
            assert torch.equal(
                getattr(getattr(ours, name), key), getattr(getattr(theirs, name), key)
            )
    accuracies = [teacher.accuracy for teacher in theirs.manifest.plan.teachers]
    found = [teacher.accuracy for teacher in ours.manifest.plan.teachers]
    assert found == pytest.approx(accuracies, abs=0.01)  # of logits in the stored type
    student = Path("student/distilled/seed-0")
    assert weights_sha256(tmp_path / "run" / student) == weights_sha256(before / student)
    figures = (result_at(folder / student).metrics for folder in (tmp_path / "run", before))
    assert next(figures) == next(figures)


@pytest.fixture
def logits(tmp_path: Path) -> dict[str, np.ndarray]:
    """Float64 logits of every row of the tiny digits, right in nine of ten."""
    dataset = open_dataset(parsed(without_teacher()).data)
    random, found = np.random.default_rng(0), {}
    for split in (dataset.train, dataset.test):
        found[split.name] = random.normal(size=(split.rows, 10))
        found[split.name][np.arange(split.rows), split.labels] += 4
    return found


def imported(folder: Path, arrays: dict[str, Any], *overrides: str) -> Path:
    """The run folder of what `kd-ray import` makes of arrays."""
    file = folder / "logits.npz"
    np.savez(file, **arrays)
    arguments = ["import", recipe_file(folder, *overrides), "--logits", file]
    answer = CliRunner().invoke(app, [*map(str, arguments), "--runs", str(folder / "runs")])
    assert answer.exit_code == 0, answer.output
    return folder / "runs" / "tiny"


def command(*words: object) -> str:
    """What a command prints that succeeds."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_import_then_every_command_goes_on_from_there(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    folder = imported(tmp_path, logits)
    again = ["--runs", tmp_path / "runs"]
    same = command("import", tmp_path / "mine.toml", "--logits", tmp_path / "logits.npz", *again)
    assert "transfer set: was finished" in same
    assert "imported from logits.npz, training accuracy 0.9" in same
    assert "student on labels" in command("distill", tmp_path / "mine.toml", "--local", *again)
    told = command("run", tmp_path / "mine.toml", "--local", *again)
    assert "imported from logits.npz" in told
    assert "agreement" in result_at(folder / "student/distilled/seed-0").metrics
    audited = command("audit", folder / "transfer_set")
    assert audited.count("\n") == 1
    assert "imported from logits.npz, a teacher that cannot be run here" in audited
    assert "imported from logits.npz, test accuracy 0.9" in str(inspect(folder / "transfer_set"))
    assert "imported from logits.npz" in write_report(folder).read_text(encoding="utf-8")
    teacher = read_manifest(folder / "transfer_set").plan.teachers[0]
    assert teacher.model == {"name": "imported", "file": "logits.npz"}


def test_a_split_without_logits_gives_students_their_figures_without_agreement(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    rows = open_dataset(parsed(without_teacher("data.validation=60")).data).train.rows
    folder = imported(
        tmp_path,
        {"train": logits["train"][:rows]},
        *("data.validation=60", "transfer_set.include_images=true", "train.keep='best'"),
    )
    recipe = parsed(
        without_teacher(
            *("data.validation=60", "transfer_set.include_images=true", "train.keep='best'"),
        )
    )
    summary = run(recipe, runs=tmp_path / "runs", local=True)
    assert summary.row("teacher") is None
    assert read_manifest(folder / "transfer_set").plan.teachers[0].accuracy is None
    result = result_at(folder / "student/distilled/seed-0")
    assert result.metrics["rows"] == 451
    assert "agreement" not in result.metrics
    assert all(0 <= epoch["accuracy"] <= 1 for epoch in result.history)
    assert "test accuracy unknown" in str(inspect(folder / "transfer_set"))


def test_teachers_that_were_imported_stand_in_the_closing_table_as_others_do(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    two = {name: np.stack([z, -z], axis=1) for name, z in logits.items()}
    folder = imported(tmp_path, two)
    summary = run(parsed(without_teacher()), runs=folder.parent, local=True)
    teacher, ensemble = summary.row("teacher"), summary.row("ensemble")
    assert teacher is not None
    assert ensemble is not None
    good, bad = teacher.metrics["accuracy"].values
    assert good > 0.9 > 0.1 > bad
    assert ensemble.metrics["accuracy"].values[0] < good
    assert teacher.cells()["parameters"] == teacher.cells()["seconds"] == "-"
    assert summary.gap_closed is not None or any("no better" in line for line in advice(summary))


def test_a_set_has_the_training_rows_that_there_are_logits_of(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    index = np.array([40, 3, 17])
    folder = imported(tmp_path, {"train": logits["train"][index], "train.index": index})
    opened = open_transfer_set(folder / "transfer_set")
    assert opened.train.index.tolist() == [3, 17, 40]
    expected = torch.from_numpy(logits["train"][[3, 17, 40]].astype(np.float16)).float()
    assert torch.equal(opened.train.logits[:, 0, 0], expected)
    assert opened.test.logits.shape == (0, 1, 1, 10)


def spoilt(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(arrays: dict[str, Any]) -> dict[str, Any]:
        arrays["train"][5, 3] = value
        return arrays

    return change


def softmax(z: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return shares


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "rows": (lambda a: {"train": a["train"][1:]}, "without train.index, logits must be of the 1"),
    "more": (
        lambda a: {"train": np.concatenate([a["train"]] * 2)},
        "there must be at most 169 rows, for 169 images of the split, but there are 338",
    ),
    "nan": (spoilt(float("nan")), "(index 5, view 0, teacher 0, class 3): logits must be finite"),
    "inf": (spoilt(float("-inf")), "the logarithm of 0 is clipped"),
    "large": (spoilt(1e5), "float16 logits must be within ±65504, but got 100000; set dtype ="),
    "classes": (lambda a: {"train": a["train"][:, :9]}, "with K = 10 classes, but are (1"),
    "integers": (lambda a: {"train": a["train"].astype(int)}, "must be floats of 16, 32 or 64"),
    "numbers": (lambda a: {"train": a["train"].argmax(1)}, "but are int64"),
    "range": (
        lambda a: {**a, "train.index": np.arange(len(a["train"])) + 1},
        "train.index must be from 0 to 1",
    ),
    "below": (
        lambda a: {**a, "train.index": np.arange(len(a["train"])) - 1},
        "but got -1",
    ),
    "twice": (
        lambda a: {**a, "train.index": np.arange(len(a["train"])) // 2},
        "index 0, view 0 is there twice",
    ),
    "lengths": (lambda a: {**a, "train.index": np.arange(3)}, "one integer for each of the 1"),
    "test": (
        lambda a: {**a, "test": a["test"][:9], "test.index": np.arange(9)},
        "there must be logits of 451 images, but 442 are missing, first that of index 9",
    ),
    "probabilities": (lambda a: {"train": softmax(a["train"])}, "give their logarithm"),
    "names": (lambda a: {**a, "tset": a["test"]}, "one is called 'tset'; did you mean 'test'"),
    "train": (lambda a: {"test": a["test"]}, "logits of training rows, but there are none"),
    "alone": (lambda a: {**a, "validation.index": a["test"]}, "there is no array 'validation'"),
    "labels": (
        lambda a: {**a, "train.label": np.zeros(len(a["train"]), int)},
        "labels must be those of the dataset, but 1",
    ),
    "teachers": (
        lambda a: {**a, "test": np.stack([a["test"]] * 2, 1)},
        "of the same teachers, but there are 1 of train, 2 of test",
    ),
    "pickle": (
        lambda a: {"train": np.array([None, {}], dtype=object)},
        "its member train.npy is a pickle, which may hold code",
    ),
    "nothing": (
        lambda a: {"train": a["train"][:0], "train.index": np.arange(0)},
        "there must be logits of one row at least",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), BAD.values(), ids=BAD)
def test_logits_that_do_not_fit_are_answered_with_the_rule_and_nothing_is_written(
    tmp_path: Path,
    logits: dict[str, np.ndarray],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    sentence: str,
):
    np.savez(tmp_path / "logits.npz", **change(logits))
    assert sentence in import_refused(tmp_path, "logits.npz")


def import_refused(folder: Path, file: str, *overrides: str) -> str:
    """The one line that `kd-ray import` answers with; it leaves no file of a set."""
    recipe, runs = recipe_file(folder, *overrides), folder / "runs"
    answer = refused("import", recipe, "--logits", folder / file, "--runs", runs)
    assert not list(runs.rglob("*.parquet"))
    assert not list(runs.rglob("*.json"))
    return answer


VIEWS = ("transfer_set.views=2", "transfer_set.augment={ shift = 1 }")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (lambda z: {"train": z}, "rows do not say which they are; add train.view"),
        (lambda z: {"train": np.stack([z, z], 1)}, "rows do not say which they are"),
        (
            lambda z: {"train": z, "train.index": np.arange(169), "train.view": np.arange(169) % 2},
            "each image must have views 0 to 1, but index 0 has no view 1",
        ),
        (
            lambda z: {"train": z, "train.index": np.arange(169), "train.view": np.arange(169) % 3},
            "train.view must be from 0 to 1, but got 2",
        ),
        (lambda z: {"train": z, "train.view": np.zeros(169, int)}, "without train.index"),
        (lambda z: {"train": np.stack([z] * 3, 1)[:, :, None]}, "must be of V = 2 views"),
        (
            lambda z: {"train": np.stack([z] * 2, 1)[:, :, None], "train.view": np.arange(169)},
            "but there is train.view as well",
        ),
    ],
)
def test_views_that_are_not_those_of_the_recipe_are_refused(
    tmp_path: Path,
    logits: dict[str, np.ndarray],
    arrays: Callable[[np.ndarray], dict[str, Any]],
    sentence: str,
):
    np.savez(tmp_path / "logits.npz", **arrays(logits["train"]))
    assert sentence in import_refused(tmp_path, "logits.npz", *VIEWS)


def test_rows_that_the_recipe_chooses_must_be_there_and_others_are_passed_over(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    few = np.arange(100)
    np.savez(tmp_path / "logits.npz", **{"train": logits["train"][few], "train.index": few})
    answer = import_refused(tmp_path, "logits.npz", "transfer_set.fraction=0.5")
    assert "leave transfer_set.fraction and classes out, or add them" in answer
    folder = imported(tmp_path, {"train": logits["train"]}, "transfer_set.fraction=0.5")
    assert len(open_transfer_set(folder / "transfer_set").train.index) < 100


def test_a_file_that_is_none_of_the_formats_or_damaged_is_answered_with_its_place(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    np.savez(tmp_path / "whole.npz", **logits)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bits.npz").write_bytes(whole[:5000] + b"\xff" * 64 + whole[5064:])
    save_file({"train": torch.from_numpy(logits["train"])}, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    pq.write_table(pa.table({"logits": logits["train"].tolist()}), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("half.npz", "bits.npz", "half.safetensors", "half.parquet", "text.npz"):
        answer = import_refused(tmp_path, name)
        assert f"{name}: logits must be readable as " in answer
        assert "save them anew" in answer
    (tmp_path / "logits.csv").write_text("1,2")
    assert "its name ends in .csv" in import_refused(tmp_path, "logits.csv")
    for nothing in ("nowhere.npz", "runs"):
        assert "but there is none; correct the path" in import_refused(tmp_path, nothing)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"index": [0, 1]}, "has no column logits"),
        ({"logits": [[1.0, 2.0], [1.0]]}, "lists in column logits have lengths 2 and 1"),
        ({"logits": [[1.0] * 10, None]}, "lists in column logits have lengths 10 and null"),
        ({"logits": [[1.0] * 9 + [None]]}, "column logits has nulls"),
        ({"logits": [[1.0] * 10], "index": [None]}, "column index has nulls"),
        ({"logits": [[1.0] * 10], "index": ["a"]}, "but is object"),
        ({"logits": [[1.0] * 20], "index": [0]}, "with K = 10 classes, but are (1, 20)"),
        ({"logits": [[1.0] * 10], "split": ["val"]}, "column split has 'val'"),
        ({"logits": ["text"]}, "must be floats of 16, 32 or 64 bits"),
    ],
)
def test_columns_that_are_no_logits_are_refused(
    tmp_path: Path, columns: dict[str, Any], sentence: str
):
    pq.write_table(pa.table(columns), tmp_path / "logits.parquet")
    assert sentence in import_refused(tmp_path, "logits.parquet")


def test_files_that_are_not_alike_are_refused(tmp_path: Path):
    (folder := tmp_path / "logits").mkdir()
    first = {"logits": [[1.0] * 10], "index": [0]}
    for second, sentence in (
        ({"logits": [[1.0] * 10]}, "train-1.parquet has no column index, but others have"),
        ({"logits": [[1.0] * 20], "index": [1]}, "column logits has rows of (10,) and (20,)"),
        ({"logits": [[1] * 10], "index": [1]}, "column logits has types float64 and int64"),
    ):
        for number, columns in enumerate((first, second)):
            pq.write_table(pa.table(columns), folder / f"train-{number}.parquet")
        assert sentence in import_refused(tmp_path, "logits")


def test_another_file_or_another_recipe_does_not_go_into_a_set_that_is_there(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    folder = imported(tmp_path, logits)
    before = read_manifest(folder / "transfer_set")
    np.savez(tmp_path / "other.npz", train=logits["train"] + 1)
    recipe, runs = tmp_path / "mine.toml", ["--runs", tmp_path / "runs"]
    answer = refused("import", recipe, "--logits", tmp_path / "other.npz", *runs)
    assert "was made by another recipe: logits is " in answer
    more = ["--set", "transfer_set.dtype=float32"]
    answer = refused("import", recipe, "--logits", tmp_path / "logits.npz", *runs, *more)
    assert "transfer_set.dtype is 'float16' there and 'float32' here" in answer
    assert "unset there and 1 here" in refused("label", tiny(tmp_path), "--local", *runs)
    assert read_manifest(folder / "transfer_set") == before


def test_an_import_that_was_interrupted_goes_on_at_the_first_missing_file(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    folder = imported(tmp_path, logits) / "transfer_set"
    before = read_manifest(folder)
    for name in ("manifest.json", "result.json", "test-00002.parquet"):
        (folder / name).unlink()
    kept = {path.name: path.stat().st_ino for path in folder.glob("*.parquet")}
    imported(tmp_path, logits)
    assert {name: (folder / name).stat().st_ino for name in kept} == kept
    assert read_manifest(folder) == before


def test_import_reads_from_a_store_and_writes_to_it(
    tmp_path: Path, stored_folder: Path, logits: dict[str, np.ndarray]
):
    np.savez(tmp_path / "logits.npz", **logits)
    stored = stored_folder / "logits.npz"
    stored.write_bytes((tmp_path / "logits.npz").read_bytes())
    recipe, runs = recipe_file(tmp_path), str(stored_folder / "runs")
    command("import", recipe, "--logits", stored, "--runs", runs)
    assert "was finished" in command("import", recipe, "--logits", stored, "--runs", runs)
    opened = open_transfer_set(f"{runs}/tiny/transfer_set")
    assert opened.manifest.plan.teachers[0].model["file"] == "logits.npz"
    assert "but there is none" in refused(
        "import", recipe, "--logits", stored_folder / "nothing.npz", "--runs", runs
    )


def tiny(folder: Path) -> Path:
    """The recipe with its teacher."""
    path = folder / "with-teacher.toml"
    path.write_text(dumps(tiny_table()), encoding="utf-8")
    return path


def test_a_recipe_without_a_teacher_says_what_to_do_where_logits_are_missing(tmp_path: Path):
    recipe, runs = recipe_file(tmp_path), ["--local", "--runs", tmp_path / "runs"]
    for stage in ("run", "label", "distill"):
        assert "make it with kd-ray import RECIPE --logits FILE" in refused(stage, recipe, *runs)
    answer = refused("teach", recipe, *runs)
    assert "teacher: this table is left out, so there is nothing to teach; add it" in answer
    file = tmp_path / "logits.npz"
    answer = refused("import", tiny(tmp_path), "--logits", file, "--runs", tmp_path / "runs")
    assert "teacher: labels the transfer set itself, so there is nothing to import" in answer
    given = ["--set", "transfer_set.path=elsewhere"]
    assert "transfer_set.path: names a finished" in refused(
        "import", recipe, "--logits", file, *given
    )


def test_a_teacher_that_was_imported_is_never_run(tmp_path: Path, logits: dict[str, np.ndarray]):
    folder = imported(tmp_path, logits)
    path = f"transfer_set.path={folder / 'transfer_set'}"
    for table, sentence in (
        (["student.teacher_in_every_step=true"], "that teacher is not here"),
        (["specialists={ count = 2 }"], "start from the weights of the teacher that labelled"),
    ):
        recipe = parsed(without_teacher(path, "student.baselines=[]", *table))
        with pytest.raises((ConfigError, TransferSetError), match=sentence):
            run(recipe, runs=tmp_path / "other", local=True)


def test_audit_of_an_imported_set_finds_other_data_and_altered_files(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    folder = imported(tmp_path, logits) / "transfer_set"
    found = audit_transfer_set(folder)
    assert found.passed
    assert found.rows == 0
    (folder / "result.json").unlink()
    assert audit_transfer_set(folder).passed  # by the recipe of the run folder
    (folder.parent / "recipe.toml").write_text(dumps(without_teacher("data.fraction=0.2")))
    with pytest.raises(TransferSetError, match="it must be of the run's images and labels"):
        audit_transfer_set(folder)
    (folder.parent / "recipe.toml").unlink()
    with pytest.raises(ConfigError, match="name the run folder that learned from this set"):
        audit_transfer_set(folder)
    file = folder / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TransferSetError, match="it was truncated"):
        audit_transfer_set(folder)


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_write_transfer_set_stores_arrays_and_tensors_of_any_float(
    tmp_path: Path, kind: Callable[[np.ndarray], Any], dtype: str
):
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(rows, 2, 3)) for name, rows in (("train", 24), ("test", 9))}
    given = {name: kind(value.astype(dtype)) for name, value in arrays.items()}
    options = TransferSetOptions(dtype="float32", shard_rows=10)
    manifest = write_transfer_set(tmp_path / "set", DATASET, given, options)
    opened = open_transfer_set(tmp_path / "set")
    for name, value in arrays.items():
        expected = torch.from_numpy(value.astype(dtype).astype(np.float32))
        assert torch.equal(getattr(opened, name).logits[:, 0], expected)
    assert write_transfer_set(tmp_path / "set", DATASET, given, options) == manifest
    with pytest.raises(Exception, match="was made by another recipe: "):
        write_transfer_set(tmp_path / "set", DATASET, {"train": given["train"] + 1}, options)


def test_write_transfer_set_takes_bfloat16_and_views(tmp_path: Path):
    logits = torch.randn(24, 3, 1, 3).bfloat16()
    options = TransferSetOptions(views=3, augment=Augment(shift=1), dtype="float32")
    write_transfer_set(tmp_path / "set", DATASET, {"train": logits}, options)
    assert torch.equal(open_transfer_set(tmp_path / "set").train.logits, logits.float())


def test_a_set_written_from_python_teaches_through_its_path(
    tmp_path: Path, logits: dict[str, np.ndarray]
):
    recipe = recipe_file(tmp_path)
    dataset = open_dataset(parsed(without_teacher()).data)
    write_transfer_set(tmp_path / "set", dataset, logits)
    given = [f"transfer_set.path={tmp_path / 'set'}"]
    summary = run(recipe, given, runs=tmp_path / "runs", local=True)
    distilled = summary.row("distilled")
    assert distilled is not None
    assert distilled.metrics["agreement"].mean > 0
    assert audit_transfer_set(tmp_path / "set", tmp_path / "runs" / "tiny").passed


GUIDE = Path(kd_ray.__file__).parent / "transfer_set" / "README.md"


def blocks(language: str) -> list[str]:
    """What the guide shows of logits from elsewhere, in one language."""
    text = GUIDE.read_text(encoding="utf-8").partition("## Logits from elsewhere")[2]
    tokens = MarkdownIt().parse(text.partition("\n## ")[0])
    return [t.content for t in tokens if t.type == "fence" and t.info == language]


def test_the_example_of_the_guide_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(blocks("toml")[0], encoding="utf-8")
    first, second = blocks("python")
    with threadpool_limits(1):  # threads that wait for a busy core take ten times as long
        exec(first, {})
    for line in blocks("")[0].splitlines():
        words = line.removeprefix("kd-ray ").split()
        quick = ["--set", "train.epochs=1", "--set", "resources.cpus_per_worker=1"]
        command(*words, *(quick if words[0] == "run" else []))
    assert Path("runs/mine/report.html").is_file()
    assert read_manifest(Path("runs/mine/transfer_set")).plan.teachers[0].accuracy > 0.95
    exec(second, {})
    given = ["transfer_set.path=made/transfer_set", "train.epochs=1", "name=other"]
    assert run("mine.toml", given, local=True).row("distilled")
