from pathlib import Path

import numpy as np
import pytest
from tiny import quantizer_options
from tiny_students import MEAN, METHODS, SHAPE, STD, pictures, tiny_student, torch_logits
from torch import nn

from kd_ray.errors import CheckpointError, ConfigError, DataError
from kd_ray.export.pt2 import Deployed, pt2_runner, write_pt2

ABOUT = {"class_names": [str(number) for number in range(10)]}


def written(folder: Path, network: nn.Module) -> Path:
    write_pt2(folder / "student.pt2", Deployed(network, MEAN, STD), SHAPE, ABOUT)
    return folder / "student.pt2"


@pytest.mark.parametrize(("model", "method"), [*METHODS, ("convnet", None)])
def test_package_answers_as_the_model_does(model: str, method: str | None, tmp_path: Path):
    if model == "resnet20" and method != "lsq":
        pytest.skip("listing its operations takes seconds")
    student = tiny_student(model, method and quantizer_options(method, 2, 2))
    run = pt2_runner(written(tmp_path, student))
    for rows in (1, 2, 64):
        wanted = torch_logits(student, pictures(rows))
        np.testing.assert_allclose(run(pictures(rows)), wanted, atol=1e-6)
    with pytest.raises(DataError, match=r"must be uint8 of shape \(N, 3, 12, 12\), but got"):
        run(pictures()[:, :1])


def test_a_model_without_another_export_is_kept(tmp_path: Path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(400, 10))
    run = pt2_runner(written(tmp_path, network.eval()))
    wanted = torch_logits(network, pictures())
    np.testing.assert_allclose(run(pictures()), wanted, atol=1e-5)


class Choosing(nn.Module):
    """A model whose operations depend on values."""

    def forward(self, x):
        return x.flatten(1)[:, :10] if x.sum() > 0 else x.flatten(1)[:, 10:20]


def test_a_model_that_cannot_be_listed_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"torch.export cannot list the operations"):
        written(tmp_path, Choosing())


def test_another_file_is_refused(tmp_path: Path):
    file = tmp_path / "student.pt2"
    file.write_bytes(b"no package")
    with pytest.raises(CheckpointError, match=r"must be a package of torch.export, but"):
        pt2_runner(file)
