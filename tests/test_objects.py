"""Distillation of objects: the notebook's way, from nothing to a student in ten lines."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from painted import pictures
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kd_ray
from kd_ray import KdRayError, distill
from kd_ray.models import build_model

pytestmark = pytest.mark.usefixtures("no_own_code")
SHAPE, K = (1, 4, 4), 3
QUICK = ("train.epochs=2", "train.batch_size=16", "student.baselines=[]")


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, K))


def small(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def squares(z: Tensor, v: Tensor) -> Tensor:
    return (z - v).square().mean(dim=-1)


def data(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Pictures of three classes that differ in brightness."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % K
    pixels = torch.randint(0, 40, (60, *SHAPE), generator=draw) + 90 * labels.view(-1, 1, 1, 1)
    rows = TensorDataset(pixels.clamp(max=255).to(torch.uint8), labels)
    return rows, TensorDataset(*rows[:30])


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return net(8)


def test_a_network_is_distilled_into_another_in_this_process(teacher: nn.Module, tmp_path: Path):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made = distill(teacher, net(4), data(), overrides=QUICK, runs=tmp_path)
    assert made.student(torch.zeros(2, *SHAPE)).shape == (2, K)
    assert not made.student.training
    assert made.folder == tmp_path / "distilled"
    assert made.summary.row("distilled").metrics["accuracy"].mean >= 0
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_same_again_is_done_and_anything_else_asks_for_another_name(
    teacher: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def again(**changed: Any) -> None:
        given: dict[str, Any] = {"student": small, "data": data(), "objective": squares, **changed}
        distill(**{"teacher": teacher, **given}, overrides=QUICK, runs=tmp_path)

    again()
    capsys.readouterr()
    again()
    assert "student distilled, seed 0: was finished" in capsys.readouterr().out
    with torch.no_grad():
        other = net(8)
        other[1].weight.add_(1)
    width = 5
    changes: list[dict[str, Any]] = [
        {"teacher": other},
        {"student": lambda: net(width)},
        {"data": data(1)},
        {"objective": lambda z, v: (z - v).abs().mean(dim=-1)},
    ]
    for change in changes:
        with pytest.raises(KdRayError, match="choose another name"):
            again(**change)


def test_a_function_that_refers_to_other_values_is_another_function(
    teacher: nn.Module, tmp_path: Path
):
    for width in (4, 5):

        def wide(width: int = width) -> nn.Module:
            return net(width)

        made = distill(teacher, wide, data(), name=f"w{width}", overrides=QUICK, runs=tmp_path)
        assert made.student[1].out_features == width  # type: ignore[index]


def layer() -> nn.Module:
    return nn.Linear(16, K)


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), layer())


def test_a_function_whose_helper_changed_is_another_function(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    distill(teacher, flat, data(), overrides=QUICK, runs=tmp_path)

    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 5), nn.Linear(5, K))

    monkeypatch.setitem(globals(), "layer", layer)
    with pytest.raises(KdRayError, match="choose another name"):
        distill(teacher, flat, data(), overrides=QUICK, runs=tmp_path)


def test_objects_and_tables_of_a_recipe_mix(tmp_path: Path):
    made = distill(
        {"name": "mlp", "hidden": [8]},
        lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)),
        "digits",
        {"name": "dkd", "temperature": 2.0},
        overrides=[*QUICK, "teacher.train.epochs=1", "data.fraction=0.2"],
        runs=tmp_path,
    )
    assert made.student(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_what_is_no_network_no_function_and_no_dataset_is_refused(
    teacher: nn.Module, tmp_path: Path
):
    wrong: list[tuple[Any, ...]] = [
        (teacher, 7, data()),
        (teacher, small, 7),
        (teacher, small, data(), 7),
        (teacher, nn.Linear(16, 2), data()),
    ]
    for given in wrong:
        with pytest.raises(KdRayError):
            distill(*given, overrides=QUICK, runs=tmp_path)


def test_the_readmes_lines_for_a_notebook_work(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    readme = (Path(kd_ray.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```python\n(from kd_ray import distill.*?)```", readme, re.DOTALL)
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    train, test = data()
    given = {"teacher": teacher, "student": small, "train": train, "test": test}
    exec(shown[1], given)
    assert isinstance(given["made"], kd_ray.Distilled)
    assert (tmp_path / "runs" / "distilled" / "student" / "distilled" / "seed-0").is_dir()


@pytest.mark.slow
def test_the_readmes_recipe_distills_a_teacher_in_a_file_on_pictures_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    readme = (Path(kd_ray.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```toml\n(name = \"birds\".*?)```", readme, re.DOTALL)
    assert shown is not None
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures", classes=3, train=6, test=2)
    torch.save(
        build_model("resnet18", {}, shape=(3, 64, 64), classes=3, seed=0).state_dict(),
        "teacher.pth",
    )
    (tmp_path / "birds.toml").write_text(shown[1])
    sets = ["train.epochs=1", "student.baselines=[]"]
    summary = kd_ray.run("birds.toml", sets, local=True)
    assert summary.row("distilled").metrics["accuracy"].mean >= 0
