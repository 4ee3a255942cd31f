"""The record of an artefact: written and read back, of older formats, and damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from kd_ray.errors import CheckpointError
from kd_ray.result import KINDS, RESULT, Result, read_result, write_result

OLD: dict[str, Any] = {
    "stage": "distill",
    "name": "tiny",
    "status": "finished",
    "title": "student distilled, seed 3",
    "variant": "distilled",
    "seed": 3,
    "metrics": {"rows": 451, "accuracy": 0.9, "errors": 45},
    "seconds": 2.5,
}

SIZES = {"rows": 2, "bytes": 80, "bytes_per_row": 40.0}
OF_STAGE: dict[str, dict[str, Any]] = {
    "label": {"metrics": SIZES},
    "cluster": {
        "metrics": {"specialists": 1, "smallest": 2, "largest": 2},
        "of_class": [0, 0],
        "special": [[0, 1]],
        "class_names": ["a", "b"],
    },
    "combine": {
        "metrics": SIZES,
        "generalist": {"accuracy": 0.5},
        "combined": {"accuracy": 0.5},
        "coverage": [{"specialists": 1, "rows": 2, "correct_before": 1, "correct_after": 1}],
        "confusion_before": [[1]],
        "confusion_after": [[1]],
    },
}
EPOCH = {"epoch": 1, "seconds": 0.5, "images_per_s": 9.5, "accuracy": 0.5}


def written(folder: Path, content: Any) -> Path:
    (folder / RESULT).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_written_result_is_read_back_with_what_its_stage_alone_has_to_say(tmp_path: Path):
    result = Result(**OLD, kind="student", parents={"transfer_set": "abc"}, gradient=1e-6)
    write_result(tmp_path, result)
    again = read_result(tmp_path)
    assert again == result
    assert again is not None
    assert again.details == {"gradient": 1e-6}
    assert read_result(tmp_path / "nothing") is None


def test_a_written_result_has_no_keys_that_its_stage_has_not_set(tmp_path: Path):
    write_result(tmp_path, Result(**OLD, kind="student"))
    assert json.loads((tmp_path / RESULT).read_text()) == {**OLD, "kind": "student"}


@pytest.mark.parametrize("stage", KINDS)
def test_a_result_that_is_older_than_kinds_is_read_with_that_of_its_stage(
    tmp_path: Path, stage: str
):
    result = read_result(written(tmp_path, {**OLD, "stage": stage, **OF_STAGE.get(stage, {})}))
    assert result is not None
    assert result.kind == KINDS[stage]
    assert result.seconds == 2.5


def test_a_result_of_a_stage_that_is_not_known_is_read_all_the_same(tmp_path: Path):
    result = read_result(written(tmp_path, {**OLD, "stage": "prune", "sparsity": 0.5}))
    assert result is not None
    assert (result.kind, result.details) == ("prune", {"sparsity": 0.5})


@pytest.mark.parametrize(
    "content",
    [
        {"status": "finished"},
        [],
        ["finished"],
        "null",
        '"finished"',
        "",
        '{"status": "fini',
        "[" * 100_000,
        '{"a":' * 100_000,
        {**OLD, "metrics": [0.9]},
        {**OLD, "metrics": {"accuracy": "high"}},
        {**OLD, "status": "begun"},
        {**OLD, "history": {}},
        {**OLD, "metrics": {"accuracy": 0.9}},
        {**OLD, "metrics": {"accuracy": 1e400, "errors": 10**400}},
        {**OLD, "kind": "teacher"},
        {**OLD, "checkpoint": "../elsewhere"},
        {**OLD, "layers": [{"name": "head"}]},
        {**OLD, "history": [{"epoch": 1}]},
        {**OLD, "history": [{**EPOCH, "accuracy": "high"}]},
        {**OLD, "history": [{**EPOCH, "accuracy": {}}]},
        {**OLD, "history": [{**EPOCH, "layers": {"head": {"on": 1.0}}}]},
        {**OLD, "stage": "cluster", **OF_STAGE["cluster"], "special": [[0, 2]]},
        {**OLD, "stage": "cluster", **OF_STAGE["cluster"], "of_class": [0, 1]},
        {**OLD, "stage": "combine", **OF_STAGE["combine"], "confusion_after": [[1, 2]]},
        {**OLD, "stage": "combine", "metrics": SIZES},
    ],
    ids=lambda content: str(content)[:24],
)
def test_what_is_no_result_is_refused_in_one_sentence_that_names_the_file(
    tmp_path: Path, content: Any
):
    with pytest.raises(CheckpointError) as caught:
        read_result(written(tmp_path, content))
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / RESULT}: must be as it was written, but ")
    assert sentence.endswith("; remove it and run the same again")
    assert len(sentence.splitlines()) == 1


def test_bytes_that_are_no_text_are_no_result(tmp_path: Path):
    (tmp_path / RESULT).write_bytes(b"\xff\xfe\x00\x80{")
    with pytest.raises(CheckpointError, match="must be as it was written"):
        read_result(tmp_path)
