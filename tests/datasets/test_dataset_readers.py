import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import pick
from kd_ray.config import DataOptions
from kd_ray.datasets import DATASETS, Dataset, dataset_problems, mnist, open_dataset, svhn
from kd_ray.errors import ConfigError, DataError, UnknownNameError

RNG = np.random.default_rng(0)
MNIST_FILES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]


def opened(name: str, root: Path | None = None, **options: Any) -> Dataset:
    return open_dataset(DataOptions(name=name, root=None if root is None else str(root), **options))


# digits, and what [data] asks of any dataset


def test_digits_are_all_there_scaled_to_bytes() -> None:
    digits = opened("digits")
    assert digits.train.rows + digits.test.rows == 1797
    assert digits.image_shape == (1, 8, 8)
    assert digits.class_names == tuple("0123456789")
    assert digits.train.images.dtype == torch.uint8
    assert int(digits.train.images.max()) == 255
    assert len(digits.train.images.unique()) == 17
    assert digits.validation.rows == 0


def test_digits_test_split_is_a_quarter_of_every_class_whatever_the_seed() -> None:
    one, other = opened("digits"), opened("digits", seed=5, validation=100, fraction=0.5)
    assert one.test.fingerprint == other.test.fingerprint
    tested = torch.bincount(one.test.labels)
    shares = tested / (tested + torch.bincount(one.train.labels))
    assert float((shares - 0.25).abs().max()) < 0.005


def test_open_dataset_is_the_same_each_time() -> None:
    options: dict[str, Any] = {"validation": 100, "fraction": 0.5, "classes": ["2", "3"]}
    assert opened("digits", **options).fingerprint == opened("digits", **options).fingerprint


def test_open_dataset_carves_validation_from_training_whatever_the_fraction() -> None:
    whole, part = opened("digits", validation=300), opened("digits", validation=300, fraction=0.1)
    assert whole.validation.rows == 300
    assert part.validation.fingerprint == whole.validation.fingerprint
    all_rows = opened("digits").train
    assert whole.train.rows == all_rows.rows - 300
    images = torch.cat([whole.train.images, whole.validation.images]).flatten(1)
    assert torch.equal(images.unique(dim=0), all_rows.images.flatten(1).unique(dim=0))
    assert opened("digits", validation=300, seed=1).validation.fingerprint != (
        whole.validation.fingerprint
    )


def test_open_dataset_takes_a_fraction_of_every_class_in_the_old_order() -> None:
    whole, part = opened("digits").train, opened("digits", fraction=0.1).train
    expected = (torch.bincount(whole.labels).double() * 0.1).round()
    assert torch.equal(torch.bincount(part.labels).double(), expected)
    same = (whole.images[None] == part.images[:, None]).all((2, 3, 4))
    places = same.int().argmax(1)
    assert bool((places.diff() > 0).all())
    assert opened("digits", fraction=0.1, seed=1).train.fingerprint != part.fingerprint


def test_open_dataset_hides_labels_of_training_rows_alone() -> None:
    whole, part = (opened("digits", validation=100, labelled=share) for share in (1.0, 0.2))
    assert torch.equal(part.train.images, whole.train.images)
    known = part.train.labels != UNLABELLED
    assert abs(float(known.float().mean()) - 0.2) < 0.01
    assert torch.equal(part.train.labels[known], whole.train.labels[known])
    assert part.test.fingerprint == whole.test.fingerprint
    assert part.validation.fingerprint == whole.validation.fingerprint
    assert part.fingerprint != whole.fingerprint


def test_open_dataset_keeps_classes_in_every_split_and_renumbers_them() -> None:
    whole, part = opened("digits"), opened("digits", classes=["8", "3"], validation=50)
    assert part.class_names == ("3", "8")
    assert part.train.rows + 50 == int(
        ((whole.train.labels == 3) | (whole.train.labels == 8)).sum()
    )
    assert torch.equal(
        part.test.images[part.test.labels == 1], whole.test.images[whole.test.labels == 8]
    )
    assert set(part.validation.labels.tolist()) == {0, 1}


def test_open_dataset_refuses_an_unknown_class() -> None:
    with pytest.raises(ConfigError, match=r"unknown class '77'; .*known: 0, 1, 2"):
        opened("digits", classes=["3", "77"])


def test_open_dataset_refuses_a_validation_split_of_everything() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation"):
        opened("digits", validation=1790)


def test_open_dataset_refuses_an_unknown_name() -> None:
    options = DataOptions(name="mnits")
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        open_dataset(options)
    assert dataset_problems("data", options) == [
        "data.name: unknown dataset 'mnits'; did you mean 'mnist'? known: cifar10, cifar100, csv, "
        "digits, fashion-mnist, imagefolder, mnist, packed, parquet, spoken-digits, svhn"
    ]
    assert dataset_problems("data", DataOptions(name="mnist")) == []


# MNIST


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def tiny_mnist(root: Path, folder: str = "MNIST") -> Path:
    raw = root / folder / "raw"
    for split, rows in (("train", 30), ("t10k", 10)):
        write_idx(raw / f"{split}-images-idx3-ubyte", RNG.integers(0, 256, (rows, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(rows) % 10)
    return raw


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_reads_what_torchvision_reads(tmp_path: Path, name: str, folder: str) -> None:
    tiny_mnist(tmp_path, folder)
    found = opened(name, tmp_path)
    for split, train in ((found.train, True), (found.test, False)):
        theirs = getattr(torchvision.datasets, folder)(tmp_path, train=train)
        assert torch.equal(split.images[:, 0], theirs.data)
        assert torch.equal(split.labels, theirs.targets)
    assert found.image_shape == (1, 28, 28)


def test_mnist_class_names_are_the_digits_and_torchvisions_clothes() -> None:
    assert list(mnist.CLOTHES) == torchvision.datasets.FashionMNIST.classes
    assert [name[0] for name in torchvision.datasets.MNIST.classes] == list(mnist.DIGITS)


@pytest.mark.parametrize("file", MNIST_FILES)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:8],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\x1f\x8b" + content[2:],
        lambda content: content[:4] + b"\xff\xff\xff\xff" + content[8:],
        lambda content: content[:4] + bytes(len(content) - 4),
        lambda content: b"garbage" * 100,
    ],
    ids=["empty", "magic", "short", "truncated", "longer", "gzip", "huge", "zero", "garbage"],
)
def test_mnist_refuses_spoilt_files_by_name(tmp_path: Path, file: str, spoil: Any) -> None:
    path = tiny_mnist(tmp_path) / f"{file}-ubyte"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=f"{file}-ubyte: must") as caught:
        opened("mnist", tmp_path)
    assert "\n" not in str(caught.value)


def test_mnist_refuses_images_and_labels_of_different_number(tmp_path: Path) -> None:
    write_idx(tiny_mnist(tmp_path) / "t10k-labels-idx1-ubyte", np.arange(9))
    with pytest.raises(DataError, match=r"each of the 10 images .* but has 9"):
        opened("mnist", tmp_path)


def test_mnist_refuses_labels_beyond_the_classes(tmp_path: Path) -> None:
    write_idx(tiny_mnist(tmp_path) / "t10k-labels-idx1-ubyte", np.arange(10) + 1)
    with pytest.raises(DataError, match="labels must be below 10, but got 10"):
        opened("mnist", tmp_path)


def test_mnist_refuses_splits_of_different_size(tmp_path: Path) -> None:
    write_idx(tiny_mnist(tmp_path) / "t10k-images-idx3-ubyte", np.zeros((10, 14, 14)))
    with pytest.raises(DataError, match=r"one size, but got \(28, 28\) and \(14, 14\)"):
        opened("mnist", tmp_path)


def test_mnist_is_the_published_one() -> None:
    root = os.environ.get("KD_RAY_DATA")
    if not root or not (Path(root) / "MNIST" / "raw").is_dir():
        pytest.skip("KD_RAY_DATA does not name a folder with MNIST")
    found = opened("mnist")
    assert (found.train.rows, found.test.rows) == (60_000, 10_000)
    assert found.mean == pytest.approx([0.1307], abs=5e-5)  # the figures that everybody uses
    assert found.std == pytest.approx([0.3081], abs=5e-5)
    assert int((found.test.labels == 3).sum()) == 1010
    assert found.fingerprint == ("6712b375a529ccfdd617991a4fe42e20d4312f82f9dec8217571310a831e3708")


# CIFAR


class Trap:
    """A pickle of it makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def tiny_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, np.ndarray]:
    """Files in CIFAR's format, and torchvision told that their checksums are the published ones."""
    kind = getattr(torchvision.datasets, name)
    labels = "labels" if name == "CIFAR10" else "fine_labels"
    folder = root / kind.base_folder
    folder.mkdir()
    pixels = {}

    def write(file: str, value: Any) -> str:
        (folder / file).write_bytes(pickle.dumps(value, protocol=2))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        listed = []
        for file, _ in getattr(kind, attribute):
            pixels[file] = RNG.integers(0, 256, (4, 3072)).astype(np.uint8)
            md5 = write(file, {"data": pixels[file], labels: [3, 1, 0, 2]})
            listed.append([file, md5])
        monkeypatch.setattr(kind, attribute, listed)
    names = {kind.meta["key"]: ["airplane", "bird", "cat", "deer"]}
    md5 = write(kind.meta["filename"], names)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    return pixels


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_reads_channels_rows_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pixels = tiny_cifar(tmp_path, monkeypatch, name)
    found = opened(name.lower(), tmp_path)
    assert found.class_names == ("airplane", "bird", "cat", "deer")
    assert found.train.rows == 4 * (len(pixels) - 1)
    test_pixels = pixels["test_batch" if name == "CIFAR10" else "test"]
    assert torch.equal(found.test.images, torch.from_numpy(test_pixels).view(4, 3, 32, 32))
    assert found.test.images.is_contiguous()
    assert found.test.labels.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("file", ["data_batch_1", "test_batch", "batches.meta"])
def test_cifar_never_unpickles_a_file_that_is_not_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    tiny_cifar(tmp_path, monkeypatch, "CIFAR10")
    sprung = tmp_path / "sprung"
    (tmp_path / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError, match=f"{file}: must be the published file"):
        opened("cifar10", tmp_path)
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({})])
def test_cifar_refuses_spoilt_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    tiny_cifar(tmp_path, monkeypatch, "CIFAR100")
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    with pytest.raises(DataError, match="train: must be the published file"):
        opened("cifar100", tmp_path)


# SVHN


def write_mat(path: Path, **variables: np.ndarray) -> None:
    scipy.io.savemat(path, variables)


def tiny_svhn(root: Path, rows: int = 12) -> np.ndarray:
    pixels = RNG.integers(0, 256, (32, 32, 3, rows)).astype(np.uint8)
    for file in svhn.FILES.values():
        write_mat(root / file, X=pixels, y=(np.arange(rows, dtype=np.uint8) % 10 + 1)[:, None])
    return pixels


def test_svhn_reads_other_files_of_the_format_with_a_warning(tmp_path: Path) -> None:
    pixels = tiny_svhn(tmp_path)
    with pytest.warns(UserWarning, match="not the official SVHN file") as warned:
        found = opened("svhn", tmp_path)
    assert len(warned) == 2
    assert found.class_names == tuple("0123456789")
    assert found.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert torch.equal(found.train.images, torch.from_numpy(pixels).permute(3, 2, 0, 1))
    assert found.train.images.is_contiguous()


def test_svhn_official_files_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_svhn(tmp_path)
    for split, file in svhn.FILES.items():
        md5 = hashlib.md5((tmp_path / file).read_bytes()).hexdigest()
        monkeypatch.setitem(svhn.OFFICIAL_MD5, split, md5)
    assert opened("svhn", tmp_path).train.rows == 12


def test_svhn_checksums_are_those_of_torchvision() -> None:
    for split, md5 in svhn.OFFICIAL_MD5.items():
        assert torchvision.datasets.SVHN.split_list[split][1:] == [svhn.FILES[split], md5]


PIXELS = np.zeros((32, 32, 3, 4), np.uint8)
ONES = np.ones((4, 1), np.uint8)


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"y": ONES}, "X is missing"),
        ({"X": PIXELS}, "y is missing"),
        ({"X": PIXELS.transpose(3, 0, 1, 2), "y": ONES}, r"X must be uint8 of shape \(32, 32, 3"),
        ({"X": PIXELS[:28], "y": ONES}, r"X must .* got uint8 of shape \(28, 32, 3, 4\)"),
        ({"X": PIXELS[..., 0], "y": ONES}, "X must"),
        ({"X": PIXELS[..., :0], "y": ONES[:0]}, "X must"),
        ({"X": PIXELS.astype(np.float64), "y": ONES}, "X must .* got float64"),
        ({"X": PIXELS, "y": ONES[:3]}, "y must be one label .* each of the 4"),
        ({"X": PIXELS, "y": ONES * 11}, r"y must .* values \[11\]"),
        ({"X": PIXELS, "y": ONES * 1.5}, r"y must .* values \[1.5\]"),
        ({"X": PIXELS, "y": np.array(["a"] * 4)}, "y must"),
    ],
)
def test_svhn_refuses_files_without_the_right_arrays(
    tmp_path: Path, variables: dict[str, np.ndarray], rule: str
) -> None:
    tiny_svhn(tmp_path)
    write_mat(tmp_path / "train_32x32.mat", **variables)
    with pytest.raises(DataError, match=rf"train_32x32\.mat: .*{rule}"):
        opened("svhn", tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-100],
        lambda content: b"garbage" * 1000,
        lambda content: pickle.dumps([1]),
    ],
    ids=["empty", "header", "truncated", "garbage", "pickle"],
)
def test_svhn_refuses_spoilt_files(tmp_path: Path, spoil: Any) -> None:
    tiny_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=r"train_32x32\.mat: must be a MATLAB file") as caught:
        opened("svhn", tmp_path)
    assert "\n" not in str(caught.value)


# missing files


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_files_that_cannot_be_downloaded_are_named_with_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, file: str
) -> None:
    root = tmp_path / "new"
    with pytest.raises(DataError) as caught:
        pick("dataset", DATASETS, name)(DataOptions(name=name, root=str(root)))
    message = str(caught.value)
    assert message.startswith(f"{name}: {root} must hold {file}")
    assert "Connection refused" in message
    assert "KD_RAY_DATA" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# JPEGs of CIFAR-10, as the hub has them


@pytest.mark.slow
def test_parquet_reads_a_dataset_as_it_was_downloaded_from_the_hub() -> None:
    root = Path(os.environ.get("KD_RAY_DATA", "")) / "cifar10-jpeg"
    if not root.is_dir():
        pytest.skip("KD_RAY_DATA does not name a folder with cifar10-jpeg")
    found = opened("parquet", root)
    assert (found.train.rows, found.test.rows) == (50_000, 10_000)
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    assert torch.equal(torch.bincount(found.test.labels), torch.full((10,), 1000))
    assert found.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)  # CIFAR-10's own
