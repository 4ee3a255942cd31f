import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sets import content, taken, tiny_plan, write_one

from kd_ray.errors import StorageError, TransferSetError
from kd_ray.files import TEMPORARY
from kd_ray.transfer_set import (
    Columns,
    Plan,
    Shard,
    image_and_view,
    shard_state,
    shards,
    write_shard,
)


@given(st.integers(1, 500), st.integers(1, 600))
def test_shards_cover_every_row_once_and_all_but_the_last_are_full(
    rows: int, shard_rows: int
) -> None:
    plan = tiny_plan(train=rows, validation=0, test=0, shard_rows=shard_rows)
    parts = shards(plan)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert all(part.rows == shard_rows for part in parts[:-1])
    assert all(part.rows for part in parts)


def test_shards_of_a_plan_count_views_in_train_only() -> None:
    plan = tiny_plan(train=3, validation=0, test=5, views=2, shard_rows=4)
    assert [(shard.name, shard.rows) for shard in shards(plan)] == [
        ("train-00000.parquet", 4),
        ("train-00001.parquet", 2),
        ("test-00000.parquet", 4),
        ("test-00001.parquet", 1),
    ]


@given(st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_image_and_view_of_rows_in_any_order_say_where_each_row_is(
    images: int, views: int, random: Random
) -> None:
    rows = list(range(images * views))
    random.shuffle(rows)
    image, view = image_and_view(torch.tensor(rows), views)
    stored = torch.arange(images * views).view(images, views)  # as `Rows` has them
    assert stored[image, view].tolist() == rows


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_write_shard_writes_the_same_bytes_for_the_same_rows(
    tmp_path: Path, dtype: str, compression: str
) -> None:
    plan = tiny_plan(dtype=dtype, compression=compression, include_images=True, unlabelled=0.5)
    first = write_one(tmp_path / "a", plan, shards(plan)[0])
    again = write_one(tmp_path / "b", plan, shards(plan)[0])
    other = write_one(tmp_path / "c", plan, shards(plan)[0], seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_write_shard_makes_the_same_files_in_any_order(tmp_path: Path) -> None:
    plan = tiny_plan(train=20, views=2)
    for shard in shards(plan):
        write_one(tmp_path / "forward", plan, shard)
    for shard in reversed(shards(plan)):
        write_one(tmp_path / "backward", plan, shard)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("forward", "backward")
    )
    assert one == other
    assert set(one) == {shard.name for shard in shards(plan)}


def test_write_shard_does_not_depend_on_the_arrays_layout_or_integer_width(tmp_path: Path) -> None:
    plan, rows = tiny_plan(), content(tiny_plan(), "validation")
    shard = next(s for s in shards(plan) if s.split == "validation")
    plain = write_one(tmp_path / "a", plan, shard)
    strided = np.asfortranarray(rows.logits.astype(np.float64))
    odd = write_shard(
        tmp_path / "b",
        plan,
        shard,
        Columns(
            rows.index.astype(np.int32),
            rows.view.astype(np.int64),
            rows.label.astype(np.int8),
            strided,
        ),
    )
    assert plain.read_bytes() == odd.read_bytes()


def test_write_shard_uses_row_groups_of_16384_rows_and_no_dictionary(tmp_path: Path) -> None:
    plan = tiny_plan(train=20_000, shard_rows=20_000)
    metadata = pq.read_metadata(write_one(tmp_path, plan, shards(plan)[0]))
    assert [metadata.row_group(i).num_rows for i in range(2)] == [16_384, 3_616]
    columns = [metadata.row_group(0).column(i) for i in range(4)]
    assert not any(column.has_dictionary_page for column in columns)
    assert {column.compression for column in columns} == {"UNCOMPRESSED"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_write_shard_refuses_a_logit_that_is_not_finite_and_writes_nothing(
    tmp_path: Path, bad: float
) -> None:
    plan = tiny_plan(members=2, views=2, shard_rows=4)
    shard = shards(plan)[1]
    rows = content(plan, "train")
    rows.logits[6, 1, 2] = bad
    with pytest.raises(
        TransferSetError,
        match=r"train row 6 \(index 10, view 0, teacher 1, class 2\): .* but got -?(nan|inf)",
    ):
        write_shard(tmp_path, plan, shard, taken(rows, slice(4, 8)))
    assert list(tmp_path.iterdir()) == []


def one_row(plan: Plan, folder: Path, value: float) -> Path:
    logits = np.full((1, 1, 3), value, dtype=np.float32)
    columns = Columns(np.array([1]), np.array([0]), np.array([-1]), logits)
    return write_shard(folder, plan, shards(plan)[0], columns)


def test_write_shard_refuses_what_float16_cannot_hold_and_takes_its_largest(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(train=1, dtype="float16")
    with pytest.raises(TransferSetError, match=r'65505; set transfer_set.dtype = "float32"'):
        one_row(plan, tmp_path, 65505.0)
    with pytest.raises(TransferSetError, match="got -1e"):
        one_row(plan, tmp_path, -1e6)
    assert list(tmp_path.iterdir()) == []
    assert pq.read_table(one_row(plan, tmp_path, -65504.0))["logits"][0].as_py() == [-65504.0] * 3
    wide = tiny_plan(train=1, dtype="float32")
    assert one_row(wide, tmp_path / "wide", 65505.0).exists()


def wrong_calls() -> Iterator[tuple[str, dict[str, object]]]:
    plan = tiny_plan(train=4, views=2, shard_rows=4)
    rows = content(plan, "train")
    right = {"index": rows.index[:4], "view": rows.view[:4], "label": rows.label[:4]}
    right["logits"] = rows.logits[:4]
    yield "logits must be", {**right, "logits": right["logits"][:, 0]}
    yield "logits must be", {**right, "logits": right["logits"].astype(int)}
    yield "label must be", {**right, "label": right["label"][:3]}
    yield "label must be in", {**right, "label": np.full(4, 3)}
    yield "label must be in", {**right, "label": np.full(4, -2)}
    yield "order", {**right, "index": right["index"][[0, 1, 1, 0]]}
    yield "order", {**right, "index": right["index"][[2, 3, 0, 1]]}
    yield "order", {**right, "index": right["index"] - 100}
    yield "order", {**right, "view": right["view"][::-1]}
    yield "order", {**right, "label": np.array([0, 1, 0, 0])}
    yield "index must be below", {**right, "index": right["index"] + 100}
    yield "images", {**right, "image": np.zeros((4, 1, 2, 2), np.uint8)}


@pytest.mark.parametrize(("message", "call"), list(wrong_calls()))
def test_write_shard_refuses_arrays_that_do_not_fit_the_plan(
    tmp_path: Path, message: str, call: dict[str, object]
) -> None:
    plan = tiny_plan(train=4, views=2, shard_rows=4)
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path, plan, shards(plan)[0], Columns(**call))
    assert list(tmp_path.iterdir()) == []


def test_write_shard_refuses_a_shard_of_another_plan(tmp_path: Path) -> None:
    plan = tiny_plan(train=4, views=2, shard_rows=4)
    rows = taken(content(plan, "train"), slice(0, 3))
    with pytest.raises(ValueError, match="must have this shard"):
        write_shard(tmp_path, plan, Shard("train", 0, 0, 3), rows)


def test_write_shard_refuses_a_missing_or_misshapen_image(tmp_path: Path) -> None:
    plan = tiny_plan(train=1, include_images=True)
    with pytest.raises(ValueError, match="images must be given"):
        one_row(plan, tmp_path, 0.0)
    rows = content(plan, "train")
    with pytest.raises(ValueError, match="image must be uint8"):
        write_shard(
            tmp_path, plan, shards(plan)[0], replace(rows, image=np.zeros((1, 2, 2, 1), np.uint8))
        )


def test_shard_state_is_missing_then_whole(tmp_path: Path) -> None:
    plan = tiny_plan()
    shard = shards(plan)[0]
    assert shard_state(tmp_path / "nowhere", plan, shard) == "missing"
    write_one(tmp_path, plan, shard)
    assert shard_state(tmp_path, plan, shard) == "whole"


def test_shard_state_of_a_file_cut_anywhere_is_missing(tmp_path: Path) -> None:
    plan = tiny_plan()
    path = write_one(tmp_path, plan, shards(plan)[0])
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert shard_state(tmp_path, plan, shards(plan)[0]) == "missing"
    write_one(tmp_path, plan, shards(plan)[0])
    assert path.read_bytes() == whole


def test_shard_state_of_another_shard_under_this_name_is_missing(tmp_path: Path) -> None:
    plan = tiny_plan(train=8, shard_rows=4)
    path = write_one(tmp_path, plan, shards(plan)[1])
    path.rename(tmp_path / shards(plan)[0].name)
    assert shard_state(tmp_path, plan, shards(plan)[0]) == "missing"


@pytest.mark.parametrize(
    "change",
    [lambda t: t.slice(1), lambda t: t.select([0, 1, 2]), lambda t: t.select([1, 0, 2, 3])],
)
def test_shard_state_of_a_file_with_other_rows_or_columns_is_missing(
    tmp_path: Path, change
) -> None:
    plan = tiny_plan()
    path = write_one(tmp_path, plan, shards(plan)[0])
    pq.write_table(change(pq.read_table(path)), path)
    assert shard_state(tmp_path, plan, shards(plan)[0]) == "missing"


def test_shard_state_of_another_plan_names_the_keys_and_both_values(tmp_path: Path) -> None:
    write_one(tmp_path, tiny_plan(), shards(tiny_plan())[0])
    wanted = tiny_plan(seed=7, compression="zstd")
    with pytest.raises(
        TransferSetError,
        match=r"train-00000\.parquet: .* compression is 'none' there and 'zstd' here, "
        r"seed is 0 there and 7 here; delete the folder",
    ):
        shard_state(tmp_path, wanted, shards(wanted)[0])


def test_shard_state_of_another_teacher_names_the_member(tmp_path: Path) -> None:
    plan = tiny_plan(members=2)
    write_one(tmp_path, plan, shards(plan)[0])
    changed = plan.teachers[1].model_copy(update={"sha256": "f" * 64})
    wanted = tiny_plan(teachers=(plan.teachers[0], changed))
    with pytest.raises(
        TransferSetError, match=r"but teachers\.1\.sha256 is '0+1' there and 'f+' here"
    ):
        shard_state(tmp_path, wanted, shards(wanted)[0])


def test_shard_state_of_a_file_from_another_program_says_so(tmp_path: Path) -> None:
    plan = tiny_plan()
    pq.write_table(pa.table({"a": [1]}), tmp_path / shards(plan)[0].name)
    with pytest.raises(TransferSetError, match="this one is not; move it away"):
        shard_state(tmp_path, plan, shards(plan)[0])


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """64 KiB mounted on `folder`; skips the test where that is not permitted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_write_shard_on_a_full_disk_is_a_storage_error_that_leaves_nothing(tmp_path: Path) -> None:
    small, large = tiny_plan(train=4), tiny_plan(train=40_000, shard_rows=40_000)
    with small_disk(tmp_path):
        kept = write_one(tmp_path, small, shards(small)[0]).name
        with pytest.raises(StorageError, match="No space left on device"):
            write_one(tmp_path, large, shards(large)[0])
        names = [path.name for path in tmp_path.iterdir()]
        assert names == [kept]
        assert shard_state(tmp_path, small, shards(small)[0]) == "whole"
        assert not any(name.startswith(TEMPORARY) for name in names)
