import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sets import content, tiny_plan, write_all

from kd_ray.errors import TransferSetError
from kd_ray.transfer_set import (
    SPLITS,
    Columns,
    Plan,
    open_transfer_set,
    read_manifest,
    write_manifest,
)
from kd_ray.transfer_set.read import pixels
from kd_ray.transfer_set.shards import ROW_GROUP_ROWS

plans = st.builds(
    tiny_plan,
    train=st.integers(0, 12),
    validation=st.integers(0, 3),
    test=st.integers(0, 3),
    members=st.integers(1, 3),
    classes=st.integers(1, 6),
    views=st.integers(1, 4),
    shard_rows=st.integers(1, 15),
    dtype=st.sampled_from(["float16", "float32"]),
    compression=st.sampled_from(["none", "zstd"]),
    unlabelled=st.sampled_from([0.0, 0.5, 1.0]),
    include_images=st.booleans(),
)


def assert_read_back(folder: Path, plan: Plan) -> None:
    """Opening the set gives what `content` was, exactly."""
    opened = open_transfer_set(folder)
    for split in SPLITS:
        rows, wanted = getattr(opened, split), content(plan, split)
        n, views = plan.splits[split].rows, plan.views_of(split)
        assert rows.index.tolist() == wanted.index[::views].tolist()
        assert rows.labels.tolist() == wanted.label[::views].tolist()
        assert rows.logits.dtype == torch.float32
        logits = wanted.logits.reshape(n, views, *plan.logits_shape)
        assert torch.equal(rows.logits, torch.from_numpy(logits))
        if wanted.image is None:
            assert rows.images is None
        else:
            image = wanted.image.reshape(n, views, *plan.image_shape)
            assert torch.equal(rows.images, torch.from_numpy(image))


@settings(max_examples=40, deadline=None)
@given(plan=plans)
def test_open_transfer_set_gives_back_what_was_written(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder), plan)
        assert_read_back(Path(folder), plan)


@pytest.mark.parametrize("include_images", [False, True])
def test_open_transfer_set_joins_row_groups_and_files(tmp_path: Path, include_images: bool) -> None:
    rows = ROW_GROUP_ROWS + 5
    plan = tiny_plan(
        train=rows, views=2, shard_rows=ROW_GROUP_ROWS + 1, include_images=include_images
    )
    write_all(tmp_path, plan)
    assert_read_back(tmp_path, plan)


def test_open_transfer_set_of_rows_too_large_for_one_batch_reads_them_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(train=50, views=2, shard_rows=60, include_images=True)
    write_all(tmp_path, plan)
    monkeypatch.setattr("kd_ray.transfer_set.read.BATCH_BYTES", 7 * (12 + 4))
    assert_read_back(tmp_path, plan)


def test_pixels_of_a_slice_are_those_of_its_rows() -> None:
    images = pa.array([b"ab", b"cd", b"ef", b"gh"], pa.binary(2))[1:3]
    assert pixels(images, 2).tobytes() == b"cdef"


def test_open_transfer_set_gives_tensors_that_may_be_written_to(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan(include_images=True))
    train = open_transfer_set(tmp_path).train
    for tensor in (train.index, train.labels, train.logits, train.images):
        tensor.add_(1)
    again = open_transfer_set(str(tmp_path)).train  # as a notebook writes it
    assert torch.equal(again.logits + 1, train.logits)


def test_open_transfer_set_of_no_validation_rows_has_no_file_and_an_empty_split(
    tmp_path: Path,
) -> None:
    write_all(tmp_path, tiny_plan(validation=0))
    assert not list(tmp_path.glob("validation-*"))
    validation = open_transfer_set(tmp_path).validation
    assert validation.logits.shape == (0, 1, 1, 3)
    assert validation.index.shape == validation.labels.shape == (0,)


def by_pyarrow(folder: Path, split: str) -> dict[str, list]:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pydict()


def by_pandas(folder: Path, split: str) -> dict[str, list]:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    frame = pd.concat([pd.read_parquet(file, dtype_backend="numpy_nullable") for file in files])
    columns = {name: frame[name].tolist() for name in frame}
    columns["label"] = [None if label is pd.NA else label for label in columns["label"]]
    columns["logits"] = [row.tolist() for row in columns["logits"]]
    return columns


def by_duckdb(folder: Path, split: str) -> dict[str, list]:
    with duckdb.connect() as connection:
        found = connection.execute(
            "select * from read_parquet(?) order by index, view", [f"{folder}/{split}-*.parquet"]
        )
        names = [column[0] for column in found.description]
        columns = list(zip(*found.fetchall(), strict=True))
    read = {name: list(values) for name, values in zip(names, columns, strict=True)}
    read["logits"] = [list(row) for row in read["logits"]]
    return read


def as_lists(rows: Columns) -> dict[str, list]:
    return {
        "index": rows.index.tolist(),
        "view": rows.view.tolist(),
        "label": [None if label == -1 else label for label in rows.label.tolist()],
        "logits": rows.logits.reshape(len(rows.logits), -1).tolist(),
        "image": [image.tobytes() for image in rows.image],
    }


@pytest.mark.parametrize("reader", [by_pyarrow, by_pandas, by_duckdb])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_other_programs_read_equal_values(tmp_path: Path, reader, dtype, compression) -> None:
    plan = tiny_plan(
        train=300,
        members=2,
        views=2,
        shard_rows=256,
        unlabelled=0.3,
        include_images=True,
        dtype=dtype,
        compression=compression,
    )
    write_all(tmp_path, plan)
    assert reader(tmp_path, "train") == as_lists(content(plan, "train"))


def test_open_transfer_set_names_a_missing_file(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan())
    (tmp_path / "train-00001.parquet").unlink()
    with pytest.raises(TransferSetError, match=r"train-00001\.parquet: .* is missing"):
        open_transfer_set(tmp_path, verify=False)


def test_open_transfer_set_names_a_truncated_file(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan())
    path = tmp_path / "test-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TransferSetError, match=r"test-00000\.parquet: .* was truncated; delete"):
        open_transfer_set(tmp_path, verify=False)
    path.write_bytes(path.read_bytes() + b"12")
    with pytest.raises(TransferSetError, match=r"test-00000\.parquet: .* was altered"):
        open_transfer_set(tmp_path, verify=False)


def test_open_transfer_set_names_a_file_with_any_bit_flipped(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan(train=4))
    path = tmp_path / "train-00000.parquet"
    whole = bytearray(path.read_bytes())
    for place in range(0, len(whole), 211):
        whole[place] ^= 1
        path.write_bytes(whole)
        with pytest.raises(TransferSetError, match=r"train-00000\.parquet: .* its sha256 begins"):
            open_transfer_set(tmp_path)
        whole[place] ^= 1
    path.write_bytes(whole)
    assert len(open_transfer_set(tmp_path).train.index) == 4


@pytest.mark.parametrize("verify", [True, False])
def test_open_transfer_set_refuses_two_files_with_swapped_names(
    tmp_path: Path, verify: bool
) -> None:
    write_all(tmp_path, tiny_plan(train=8, shard_rows=4))
    first, second = (tmp_path / f"train-0000{number}.parquet" for number in (0, 1))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(TransferSetError, match=r"train-0000\d\.parquet: must "):
        open_transfer_set(tmp_path, verify=verify)


def forge(folder: Path, change) -> None:
    """Rewrites the first training file as another program could, with a manifest to match."""
    plan = read_manifest(folder).plan
    path = folder / "train-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table), path, compression="none", use_dictionary=False)
    write_manifest(folder, plan)


def put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), values)


def poisoned(table: pa.Table, value: float) -> pa.Table:
    values = table["logits"].combine_chunks().flatten().to_numpy().copy()
    values[4] = value
    kind = table.schema.field("logits").type
    return put(table, "logits", pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.take([1, 0, 2, 3]), r"train row 1 \(index 1, view 0\) is out of order"),
        (lambda t: t.take([0, 1, 1, 3]), r"train row 2 \(index 4, view 0\) is out of order"),
        (lambda t: poisoned(t, np.nan), "a logit that is not finite"),
        (lambda t: poisoned(t, -np.inf), "a logit that is not finite"),
        (lambda t: put(t, "label", pa.array([0, 1, 2, 3])), r"a label outside 0\.\.2"),
        (lambda t: put(t, "label", pa.array([0, 1, 2, -2])), r"a label outside 0\.\.2"),
        (lambda t: put(t, "index", pa.array([0, 4, 7, 10])), "the images that the plan chose"),
        (lambda t: put(t, "view", pa.array([0, 0, 1, 0], pa.int32())), "out of order"),
    ],
)
def test_open_transfer_set_refuses_rows_that_cannot_be_right_even_if_hashes_match(
    tmp_path: Path, change, message: str
) -> None:
    write_all(tmp_path, tiny_plan(train=4, shard_rows=4))
    forge(tmp_path, change)
    with pytest.raises(TransferSetError, match=message):
        open_transfer_set(tmp_path)


def test_open_transfer_set_refuses_views_of_one_image_with_two_labels(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan(train=2, views=2, shard_rows=4))
    forge(tmp_path, lambda t: put(t, "label", pa.array([0, 1, 2, 2])))
    with pytest.raises(TransferSetError, match=r"train row 1 \(index 1, view 1\) is out of order"):
        open_transfer_set(tmp_path)


def test_open_transfer_set_without_verification_still_refuses_pages_that_do_not_decode(
    tmp_path: Path,
) -> None:
    write_all(tmp_path, tiny_plan(train=4, compression="zstd"))
    path = tmp_path / "train-00000.parquet"
    whole = bytearray(path.read_bytes())
    whole[4:200] = bytes(196)
    path.write_bytes(whole)
    with pytest.raises(TransferSetError, match=r"train-00000\.parquet: .* do not decode"):
        open_transfer_set(tmp_path, verify=False)


def test_open_transfer_set_refuses_a_shard_of_another_plan(tmp_path: Path) -> None:
    write_all(tmp_path / "ours", tiny_plan())
    write_all(tmp_path / "theirs", tiny_plan(seed=1))
    stranger = (tmp_path / "theirs" / "train-00000.parquet").read_bytes()
    (tmp_path / "ours" / "train-00000.parquet").write_bytes(stranger)
    with pytest.raises(TransferSetError, match="seed is 1 there and 0 here"):
        open_transfer_set(tmp_path / "ours", verify=False)
    with pytest.raises(TransferSetError, match="its sha256 begins"):
        open_transfer_set(tmp_path / "ours")


def test_open_transfer_set_refuses_an_unfinished_set(tmp_path: Path) -> None:
    write_all(tmp_path, tiny_plan())
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(TransferSetError, match="labelling has not finished"):
        open_transfer_set(tmp_path)
