"""Laws of a dataset that is a function of the user's own: what it may return, and what not."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from textwrap import dedent
from typing import Any

import pytest
import torch
from tiny import refused, tiny_file

from kd_ray import own_code
from kd_ray.config import DataOptions
from kd_ray.datasets import Dataset, dataset_problems, open_dataset
from kd_ray.errors import ConfigError, DataError, KdRayError
from kd_ray.own_code import allow
from kd_ray.pipeline import open_recipe, run
from kd_ray.transfer_set import read_manifest

START = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as Torch, IterableDataset, Subset, TensorDataset
from kd_ray import Dataset, Split

LABELS = torch.arange(6) % 2
BYTES = (torch.arange(6, dtype=torch.uint8) * 10)[:, None, None, None].expand(6, 3, 8, 8)

def split(name="train", images=BYTES, labels=LABELS):
    return Split(name, images, labels)

class Pictures(Torch):
    classes = ["cat", "dog"]

    def __init__(self, labels=(0, 1, 0, 1, 0, 1), size=(8, 8)):
        self.labels, self.size = labels, size

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return Image.new("L", self.size, row), self.labels[row]

class Drawn(Pictures):
    def __getitem__(self, row):
        return torch.rand(3, 8, 8), self.labels[row]

class Stream(IterableDataset):
    def __iter__(self):
        return iter(())

class Broken(Pictures):
    def __getitem__(self, row):
        if row == 5:
            raise OSError("the disk is gone")
        return super().__getitem__(row)

def load(**options):
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Each test has its own module of one name, and leaves no permission behind."""
    before, path = dict(own_code._allowed), list(sys.path)
    yield
    own_code._allowed.clear()
    own_code._allowed.update(before)
    sys.modules.pop("own_data", None)
    sys.path[:] = path


def opened(folder: Path, body: str, **options: Any) -> Dataset:
    """The dataset of a function with this body."""
    text = START + "".join(f"    {line}\n" for line in dedent(body).splitlines())
    place = Path(mkdtemp(dir=folder))  # or the module of before would still be there
    (place / "own_data.py").write_text(text)
    allow(["own_data:load"], place)
    return open_dataset(DataOptions(name="own_data:load", **options))


@pytest.mark.parametrize(
    "body",
    [
        "return Pictures(), Pictures()",
        "return {'train': Pictures(), 'test': Pictures(), 'classes': ['cat', 'dog']}",
        "pairs = [Pictures()[row] for row in range(6)]\n"
        "return {'train': pairs, 'test': pairs, 'classes': ('cat', 'dog')}",
        "pixels = (torch.arange(6) / 255)[:, None, None, None].expand(6, 3, 8, 8)\n"
        "data = TensorDataset(pixels, LABELS)\n"
        "return {'train': data, 'test': data, 'classes': Pictures.classes}",
        "one = split(images=BYTES // 10)\n"
        "return Dataset.of_two('any', ('cat', 'dog'), one, one)",
        "data = Subset(Pictures(np.arange(6) % 2), range(6))\n"
        "return {'train': data, 'test': data, 'classes': Pictures.classes}",
    ],
    ids=["torch", "named", "lists", "tensors", "Dataset", "subsets"],
)  # fmt: skip
def test_every_form_of_the_same_pictures_is_the_same_dataset(tmp_path: Path, body: str) -> None:
    found = opened(tmp_path, body)
    assert found.name == "own_data:load"
    assert found.class_names == ("cat", "dog")
    assert found.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.fingerprint == opened(tmp_path, "return Pictures(), Pictures()").fingerprint


def test_floats_become_the_nearest_of_256_levels_and_come_back(tmp_path: Path) -> None:
    levels = "torch.arange(256).reshape(1, 16, 16)"
    body = f"""
        data = TensorDataset(({levels} / 255).expand(4, 1, 16, 16), LABELS[:4])
        return data, data
    """
    found = opened(tmp_path, body)
    assert found.train.images[0].flatten().tolist() == list(range(256))
    assert found.image_shape == (1, 16, 16)


def test_rows_without_a_label_are_for_the_soft_term_alone(tmp_path: Path) -> None:
    found = opened(tmp_path, "return Pictures((0, None, 1, -1, 0, 1)), Pictures()", validation=2)
    assert found.train.labels.tolist().count(-1) == 2
    assert sorted(found.validation.labels.tolist()) == [0, 1]
    body = """
        some = split(labels=torch.tensor([0, 1, -1, -1, 0, 1]))
        return Dataset.of_two("any", ("a", "b"), some, split())
    """
    assert opened(tmp_path, body).train.labels.tolist() == [0, 1, -1, -1, 0, 1]


def test_without_names_numbers_are_names_and_without_a_test_split_a_share_is(
    tmp_path: Path,
) -> None:
    found = opened(tmp_path, "return {'train': [Pictures([7, 3] * 10)[n] for n in range(20)]}")
    assert found.class_names == ("3", "7")
    assert torch.bincount(found.test.labels).tolist() == [2, 2]


def test_pictures_are_resized_and_tensors_are_not(tmp_path: Path) -> None:
    body = "return Pictures(size=(20, 9)), Pictures()"
    assert opened(tmp_path, body, image_size=8).image_shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"own_data:load: test, row 0: all pictures must have"):
        opened(tmp_path, body)
    with pytest.raises(DataError, match="image_size goes with pictures of Pillow's"):
        opened(tmp_path, "return Drawn(), Drawn()", image_size=8)


def test_options_are_the_functions_arguments_and_checked_like_others(tmp_path: Path) -> None:
    text = "def load(folder: str, grey=False):\n    raise ValueError(folder)\n"
    (tmp_path / "own_data.py").write_text(text + "table = 3\n")
    allow(["own_data:load"], tmp_path)

    def problems(name: str = "own_data:load", **options: Any) -> list[str]:
        return dataset_problems("data", DataOptions(name=name, options=options))

    assert problems(folder="a", grey=[1]) == []
    assert problems() == ["data.options.folder: this key is required; add it"]
    assert "did you mean 'folder'?" in problems(folder="a", foldr="b")[0]
    assert "a valid string" in problems(folder=3)[0]
    assert problems("own_data:table")[0].endswith("must be a function, but is an int")
    with pytest.raises(ConfigError, match=r"own_data\.py, line 2: ValueError: here"):
        open_dataset(DataOptions(name="own_data:load", options={"folder": "here"}))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return None", r"must return a kd_ray\.Dataset, or torch .* but returned a NoneType"),
        ("return Pictures()", "but returned a Pictures"),
        ("return {'train': Pictures(), 'dev': 3}", "but returned 'dev' as well"),
        ("return Stream(), Pictures()", "train must be a torch dataset with a length .* a Stream"),
        ("return Pictures(), Pictures([])", "the test split must have pictures"),
        ("return Broken(), Pictures()", r"own_data\.py, line \d+: OSError: the disk is gone"),
        ("return [(3,)], Pictures()", "train, row 0: must be .picture, label., but is a tuple"),
        ("return [(np.ones(3), 0)], []", "the test split must have pictures"),
        ("return [(np.ones(3), 0)], Pictures()", "one of Pillow's or a tensor, but is a ndarray"),
        ("return Drawn(), Pictures()", "train, row 0: must be the same each time"),
        ("return Pictures((0, 2)), Pictures()", "row 1: the label must be from 0 to 1.* is 2"),
        ("return Pictures((0, -3)), Pictures()", "row 1: .* or -1 where it is not known.* -3"),
        ("return Pictures((0, 1.0)), Pictures()", "row 1: a label must be a whole number.* 1.0"),
        ("return Pictures((0, True)), Pictures()", "row 1: a label must be .* is True"),
        ("return Pictures((0, 'dog')), Pictures()", "row 1: a label must be .* is 'dog'"),
        ("return Pictures(), Pictures((0, None))", "test, row 1: .* must have a label"),
        ("return Pictures((0, 0)), Pictures()", "at least two classes to tell apart.* 'cat'"),
        ("return {'train': Pictures(), 'classes': 'ab'}", "classes must be a list of texts"),
        ("return {'train': Pictures(), 'classes': ['a', 'a']}", "but 2 are 'a'"),
        ("return [(torch.ones(8, 8), 0)], Pictures()", r"shape .* but has \(8, 8\)"),
        ("return [(torch.ones(8, 8, 3), 0)], Pictures()", "permute it"),
        ("return [(torch.ones(3, 8, 8) * 2, 0)], Pictures()", "float32 from 2 to 2; leave norm"),
        ("return [(torch.ones(3, 8, 8, dtype=int), 0)], Pictures()", r"8, 8\) int64; leave"),
        ("return [(torch.full((3, 8, 8), torch.nan), 0)], Pictures()", "from nan to nan"),
    ],
)
def test_an_answer_that_is_no_dataset_is_one_sentence(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(KdRayError, match=told) as caught:
        opened(tmp_path, body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("split(labels=LABELS.int())", r"train must be a kd_ray\.Split .* and \(6,\) int32"),
        ("split(images=BYTES.float())", r"but is \(6, 3, 8, 8\) float32"),
        ("split(images=BYTES[:5])", r"must be a kd_ray\.Split"),
        ("split(images=3)", "but is an int and"),
        ("split(labels=LABELS + 1)", "train, row 1: a label must be from -1 to 1, but is 2"),
        ("split(labels=LABELS - 2)", "train, row 0: a label must be from -1 to 1, but is -2"),
        ("split(images=BYTES[:, :, :4])", r"validation must have images, .* \(3, 4, 8\)"),
        ("split(images=BYTES[:0], labels=LABELS[:0])", "train must have images"),
    ],
)
def test_a_dataset_that_breaks_a_rule_is_one_sentence(
    tmp_path: Path, train: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        opened(tmp_path, f"return Dataset('x', ('a', 'b'), {train}, split('x'), split('x'))")


def test_a_recipe_runs_with_the_module_beside_it(tmp_path: Path) -> None:
    body = "    return Dataset.of_two('x', ('dark', 'light'), split(), split('test'))\n"
    (tmp_path / "own_data.py").write_text(START + body)
    recipe = tiny_file(tmp_path, "data.name=own_data:load", "data.fraction=1.0")
    summary = run(open_recipe(recipe), runs=tmp_path / "runs", local=True)
    assert summary.row("distilled").metrics["errors"].mean <= 6
    manifest = read_manifest(summary.folder / "transfer_set")
    assert manifest.plan.class_names == ("dark", "light")


def test_a_recipe_whose_function_fails_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "own_data.py").write_text(START + "    raise OSError('no disk')\n")
    recipe = tiny_file(tmp_path, "data.name=own_data:load", "data.fraction=1.0")
    answer = refused("run", recipe, "--local", "--runs", tmp_path / "runs", at_once=False)
    assert re.search(r"own_data\.py, line \d+: OSError: no disk; mend it there", answer)
    assert not list((tmp_path / "runs").rglob("result.json"))


def test_a_dataset_may_have_validation_rows_of_its_own(tmp_path: Path) -> None:
    body = "return Dataset('x', ('a', 'b'), split(), split(images=BYTES + 5), split())"
    found = opened(tmp_path, body)
    assert found.validation.images[0, 0, 0, 0] == 5
    with pytest.raises(DataError, match=r"6 validation rows of its own, so data\.validation"):
        opened(tmp_path, body, validation=2)
    with pytest.raises(DataError, match=r"image_size goes with pictures, but returned is"):
        opened(tmp_path, body, image_size=8)
