import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_sets import tiny_plan, write_all, write_one

from kd_ray.errors import TransferSetError
from kd_ray.files import sha256_of
from kd_ray.transfer_set import (
    bytes_per_row,
    check_fit,
    read_manifest,
    shards,
    write_manifest,
)


def test_manifest_read_back_is_the_one_written(tmp_path: Path) -> None:
    plan = tiny_plan(members=2, views=2)
    written = write_all(tmp_path, plan)
    read = read_manifest(tmp_path)
    assert read == written
    assert read.sha256 == written.sha256
    assert read.plan.json_text == plan.json_text
    assert pickle.loads(pickle.dumps(read)) == written


def test_manifest_describes_every_file(tmp_path: Path) -> None:
    plan = tiny_plan()
    manifest = write_all(tmp_path, plan)
    assert [(file.name, file.rows) for file in manifest.files] == [
        (shard.name, shard.rows) for shard in shards(plan)
    ]
    for file in manifest.files:
        assert file.bytes == (tmp_path / file.name).stat().st_size
        assert file.sha256 == sha256_of(tmp_path / file.name)
    assert set(manifest.created_with) >= {"python", "kd-ray", "numpy", "pyarrow", "torch"}


def test_manifest_sha256_is_of_plan_and_content_and_not_of_the_program(tmp_path: Path) -> None:
    plan = tiny_plan()
    manifest = write_all(tmp_path / "a", plan)
    assert write_all(tmp_path / "b", plan).sha256 == manifest.sha256
    assert write_all(tmp_path / "c", plan, seed=1).sha256 != manifest.sha256
    assert write_all(tmp_path / "d", tiny_plan(seed=1)).sha256 != manifest.sha256
    elsewhere = manifest.model_copy(update={"created_with": {"python": "0"}})
    assert elsewhere.sha256 == manifest.sha256


def test_manifest_cannot_be_changed(tmp_path: Path) -> None:
    manifest = write_all(tmp_path, tiny_plan())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.plan.seed = 1


def test_write_manifest_refuses_an_unfinished_set_and_names_the_first_missing_file(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(train=8, shard_rows=4)
    write_one(tmp_path, plan, shards(plan)[0])
    with pytest.raises(TransferSetError, match=r"4 files, but 3 are missing, first train-00001"):
        write_manifest(tmp_path, plan)
    assert not (tmp_path / "manifest.json").exists()


def test_write_manifest_refuses_a_shard_of_another_plan(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan(seed=1))
    with pytest.raises(TransferSetError, match="seed is 1 there and 0 here"):
        write_manifest(tmp_path, tiny_plan())


def test_write_manifest_refuses_a_parquet_file_that_no_plan_names(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan())
    (tmp_path / "train-00099.parquet").write_bytes(b"")
    with pytest.raises(TransferSetError, match=r"got train-00099\.parquet; move it away"):
        write_manifest(tmp_path, tiny_plan())


def test_read_manifest_says_that_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TransferSetError, match="is a folder, but there is none"):
        read_manifest(tmp_path / "nowhere")


def test_read_manifest_says_that_labelling_has_not_finished(tmp_path: Path) -> None:
    with pytest.raises(TransferSetError, match="labelling has not finished: run kd-ray label"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"plan": 3}', "\xff"])
def test_read_manifest_refuses_what_is_not_a_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TransferSetError, match=r"manifest\.json: must be as it was written"):
        read_manifest(tmp_path)


def edit(folder: Path, *path: Any, value: Any) -> None:
    """Changes one value of the manifest on disk."""
    values = place = json.loads((folder / "manifest.json").read_text())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(values))


def test_read_manifest_refuses_a_newer_format_and_names_both(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan())
    edit(tmp_path, "plan", "format_version", value=2)
    with pytest.raises(TransferSetError, match="format version must be 1, but got 2"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "seed"), 5),
        (("plan", "dataset"), "other"),
        (("plan", "seed"), "5"),
        (("plan", "typo"), 1),
        (("files", 0, "rows"), 1),
        (("files", 0, "sha256"), "0" * 64),
        (("sha256",), "0" * 64),
        (("files",), []),
    ],
    ids=str,
)
def test_read_manifest_refuses_an_edited_manifest(
    tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    write_all(tmp_path, tiny_plan())
    edit(tmp_path, *path, value=value)
    with pytest.raises(TransferSetError, match="must be as it was written"):
        read_manifest(tmp_path)


def test_bytes_per_row_is_the_mean_over_all_rows(tmp_path: Path) -> None:
    manifest = write_all(tmp_path, tiny_plan(train=7, validation=2, test=3))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.parquet"))
    assert bytes_per_row(manifest) == pytest.approx(size / 12)


def test_bytes_per_row_of_many_rows_is_close_to_the_payload(tmp_path: Path) -> None:
    plan = tiny_plan(
        train=30_000, validation=0, test=0, classes=10, dtype="float16", shard_rows=30_000
    )
    assert 20 <= bytes_per_row(write_all(tmp_path, plan)) < 24


def test_bytes_per_row_of_an_empty_set_is_zero(tmp_path: Path) -> None:
    manifest = write_all(tmp_path, tiny_plan(train=0, validation=0, test=0))
    assert manifest.files == ()
    assert bytes_per_row(manifest) == 0


def test_check_fit_accepts_its_own_plan_and_fewer_views(tmp_path: Path) -> None:
    plan = tiny_plan(members=2, views=3)
    manifest = write_all(tmp_path, plan)
    same = {
        "dataset_fingerprint": plan.dataset_fingerprint,
        "class_names": list(plan.class_names),
        "teacher_sha256s": [teacher.sha256 for teacher in plan.teachers],
    }
    assert check_fit(manifest) is None
    for views in (1, 2, 3):
        assert check_fit(manifest, **same, views=views) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dataset_fingerprint": "e" * 64}, "fingerprint 0 is 'd+' there and 'e+' here"),
        (
            {"class_names": ["class-0", "cat", "class-2"]},
            "class 1 is 'class-1' there and 'cat' here",
        ),
        ({"class_names": ["class-0", "class-1"]}, "class 2 is 'class-2' there and unset here"),
        ({"class_names": ["class-0", "class-2", "class-1"]}, "class 1 is 'class-1' there"),
        ({"teacher_sha256s": ["0" * 64, "f" * 64]}, "member 1 is '0+1' there and 'f+' here"),
        ({"teacher_sha256s": ["0" * 64]}, "member 1 is '0+1' there and unset here"),
        ({"views": 4}, r"views 0 to 3, but the set has 0 to 2; .* transfer_set\.views = 4"),
    ],
)
def test_check_fit_refuses_what_differs_and_names_both_sides(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    manifest = write_all(tmp_path, tiny_plan(members=2, views=3))
    with pytest.raises(TransferSetError, match=message):
        check_fit(manifest, **asked)
