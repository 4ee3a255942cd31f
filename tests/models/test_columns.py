"""Laws of columns: K outputs of more, by numbers or by names."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import normal

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import NewModel, columns_of, new_model

CLASSES = ("cat", "dog", "cow")


def made(columns: Any, file: Path | None, names: tuple[str, ...] = CLASSES) -> NewModel:
    model = ModelOptions.model_validate(
        {"name": "mlp", "hidden": [4], "weights": str(file) if file else None}
    )
    return new_model(
        model,
        shape=(1, 4, 4),
        classes=len(names),
        seed=0,
        mean=[0.5],
        std=[0.2],
        columns=columns_of(columns, names),
    )


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Weights of five classes."""
    torch.save(made(None, None, tuple("abcde")).network.state_dict(), tmp_path / "five.pt")
    return tmp_path / "five.pt"


def test_columns_are_those_outputs_in_the_order_of_the_classes(five: Path, tmp_path: Path):
    images = normal(2, 1, 4, 4)
    all_of_them = made(None, five, tuple("abcde")).network(images)
    found = made([3, 0, 1], five)
    assert torch.equal(found.network(images), all_of_them[:, [3, 0, 1]])
    assert (found.table["columns"], found.table["outputs"]) == ([3, 0, 1], 5)
    names = tmp_path / "names.txt"
    names.write_text("dog\ncow\nbird\n cat \nfish\n")
    assert torch.equal(made(str(names), five).network(images), all_of_them[:, [3, 0, 1]])


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([0, 1, 2, 3], "one for each of the 3 classes, in their order, but there are 4"),
        ([0, 1], "but there are 2"),
        ([0, 1, 5], "of the 5 outputs of the teacher, counted from 0, but got 5"),
        ("cat\ndog\nbird\na\nb", "'cow' is in 0"),
        ("cat\ndog\ncow\ncow\nb", "'cow' is in 2"),
        ("background\ncat\ndog\ncow\na\nb", "of the 5 outputs.* but the file has 6 names"),
        ("cat\ndog\ncow\n", "but the file has 3 names"),
    ],
)
def test_columns_that_do_not_fit_are_refused(five: Path, tmp_path: Path, columns: Any, told: str):
    if isinstance(columns, str):
        (tmp_path / "names.txt").write_text(columns)
        columns = str(tmp_path / "names.txt")
    with pytest.raises(ConfigError, match=told):
        made(columns, five)


def test_columns_of_a_model_without_weights_are_refused():
    with pytest.raises(ConfigError, match="picks outputs of trained weights"):
        made([0, 1, 2], None)


def test_a_file_of_names_must_be_a_text_file_and_a_pipe_is_not_waited_for(tmp_path: Path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("bytes", "folder", "pipe", "nothing"):
        with pytest.raises(ConfigError, match=rf"teacher\.columns: .*{name} must be a text file"):
            columns_of(str(tmp_path / name), CLASSES)
