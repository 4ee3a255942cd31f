"""Laws of one's own nets: how they are asked, and what is refused before any training."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import normal
from torch import nn

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import NewModel, build_model, model_problems, new_model, placed
from kd_ray.own_code import allow

pytestmark = pytest.mark.usefixtures("no_own_code")
SHAPE = (1, 4, 4)
HEAD = """
import random
import torch
from torch import nn
"""
GOOD = """
def net(shape, classes, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, classes))
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "own_nets.py"
    file.write_text(HEAD + text)
    allow(["own_nets:net"], folder)
    return file


def made(name: str = "own_nets:net", seed: int = 0, **options: Any) -> NewModel:
    model = ModelOptions.model_validate({"name": name, **options})
    return new_model(model, shape=SHAPE, classes=3, seed=seed, mean=[0.5], std=[0.2])


def test_own_net_is_a_function_of_its_seed_and_is_built_from_its_description(tmp_path: Path):
    written(tmp_path, GOOD)
    one, same, other = made(seed=1, width=6), made(seed=1, width=6), made(seed=2, width=6)
    assert one.table == {"name": "own_nets:net", "width": 6}
    images = normal(2, *SHAPE)
    assert torch.equal(one.network(images), same.network(images))
    assert not torch.equal(one.network(images), other.network(images))
    again = build_model("own_nets:net", {"width": 6}, shape=SHAPE, classes=3, seed=1)
    assert torch.equal(one.network(images), again(images))


@pytest.mark.parametrize(
    "text",
    [
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))",
        "def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))",
        "def net(*, classes=1000): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))",
        "def net(shape, classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))",
        "class net(nn.Sequential):\n"
        "    def __init__(self, classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(16, classes))",
    ],
)
def test_shape_and_classes_are_given_to_what_takes_them(tmp_path: Path, text: str):
    written(tmp_path, text)
    assert made().network(normal(2, *SHAPE)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"widht": 3}, r"student\.model\.widht: unknown key; did you mean 'width'"),
        ({"width": "wide"}, r"student\.model\.width: .*integer.*but got 'wide'"),
        ({"classes": 3}, r"student\.model\.classes: unknown key"),
    ],
)
def test_options_are_checked_against_its_signature(
    tmp_path: Path, options: dict[str, Any], told: str
):
    written(tmp_path, GOOD)
    model = ModelOptions.model_validate({"name": "own_nets:net", **options})
    (problem,) = model_problems("student.model", model)
    assert re.search(told, problem), problem


@pytest.mark.parametrize(
    "text",
    [
        "def net(classes, width=4): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))",
        "def net(classes, **more): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))",
        "def net(classes, width: 'nowhere' = 4): return nn.Linear(16, classes)",
        "def net(classes, layer: nn.Module = None): return nn.Linear(16, classes)",
    ],
)
def test_a_signature_of_any_kind_is_checked_without_a_traceback(tmp_path: Path, text: str):
    written(tmp_path, text)
    model = ModelOptions.model_validate({"name": "own_nets:net", "width": 4})
    assert all("\n" not in problem for problem in model_problems("student.model", model))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("net = 3", "must be a function or a class, but is a int"),
        ("def net(): return 3", "must return a torch.nn.Module, but returned 3"),
        ("def net(): return nn.Flatten()", "must have weights"),
        (
            "def net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(16, classes + 1))",
            r"shape \[2, 3\], one for each class, but answered with \[2, 4\]",
        ),
        ("def net(): return nn.Linear(4, 3)", r"answered with \[2, 1, 4, 3\]"),
        (
            "class net(nn.Linear):\n"
            "    def __init__(self): super().__init__(16, 3)\n"
            "    def forward(self, x):\n"
            "        x = super().forward(x.flatten(1))\n"
            "        return (x, x) if self.training else x",
            "answered with tuple",
        ),
        (
            "def net():\n    raise ValueError('too\\nwide')",
            r"own_nets\.py, line 7: ValueError: too wide",
        ),
        (
            "class net(nn.Linear):\n"
            "    def __init__(self): super().__init__(16, 3)\n"
            "    def forward(self, x):\n"
            "        return self.nothing(x)",
            r"own_nets\.py, line 9: AttributeError",
        ),
        ("def net(): return nn.Sequential(nn.Flatten(), nn.Linear(9, 3))", r"line 6|mat1"),
        (
            "def net():\n"
            "    layer = nn.Linear(16, 3)\n"
            "    layer.weight.data += random.random()\n"
            "    return nn.Sequential(nn.Flatten(), layer)",
            "must be a function of torch's seed alone",
        ),
        (
            "class net(nn.Linear):\n"
            "    def __init__(self): super().__init__(16, 3)\n"
            "    def forward(self, x):\n"
            "        return super().forward(x.flatten(1)) + torch.rand(3)",
            "must be a function of torch's seed alone",
        ),
        (
            "class net(nn.Linear):\n"
            "    def __init__(self):\n"
            "        super().__init__(16, 3)\n"
            "        self.fixed = torch.randn(16)\n"
            "    def forward(self, x):\n"
            "        return super().forward(x.flatten(1) * self.fixed)",
            "must be a function of its state_dict",
        ),
        (
            "class net(nn.Linear):\n"
            "    def __init__(self): super().__init__(16, 3)\n"
            "    def forward(self, x): return super().forward(x.flatten(1))\n"
            "    def get_extra_state(self): return {'a': 1}\n"
            "    def set_extra_state(self, state): pass",
            "its state must be tensors alone",
        ),
    ],
)
def test_what_is_no_classifier_of_k_classes_is_refused_in_a_sentence(
    tmp_path: Path, text: str, told: str
):
    written(tmp_path, "\n" + text)
    with pytest.raises(ConfigError, match=told) as caught:
        made()
    assert "own_nets:net" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_does_not_import_is_a_problem_of_the_recipe(tmp_path: Path):
    written(tmp_path, "import nowhere_at_all")
    (problem,) = model_problems("student.model", ModelOptions(name="own_nets:net"))
    assert "student.model.name: own_nets:net" in problem
    assert "line 5: ModuleNotFoundError" in problem


VIEWED = """
class net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 2, 1), nn.Conv2d(2, width, 3)
        self.head = nn.Linear(width * 4, 3)
    def forward(self, x):
        return self.head(self.conv(self.stem(x)).view(len(x), -1))
"""


@pytest.mark.parametrize("text", [VIEWED, VIEWED.replace(".view(len(x), -1)", ".flatten(1)")])
def test_a_net_that_takes_its_tensors_for_contiguous_is_given_such(tmp_path: Path, text: str):
    written(tmp_path, text)
    network = placed(made().network, torch.device("cpu"))
    images = normal(4, *SHAPE)
    expected = network(images)
    got = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)
    assert network.conv.weight.is_contiguous() == (".view" in text)


def test_a_net_is_left_in_training_and_untouched_by_the_looks_at_it(tmp_path: Path):
    written(
        tmp_path,
        "def net(classes): return nn.Sequential(\n"
        "    nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, classes))",
    )
    network = made().network
    assert all(module.training for module in network.modules())
    assert network.state_dict()["1.num_batches_tracked"] == 0
    assert (network.state_dict()["1.running_mean"] == 0).all()


def test_quantizers_of_attention_are_not_passed_by_in_evaluation():
    build_model("mlp", {"hidden": [2]}, shape=SHAPE, classes=3, seed=0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    called = []
    layer.linear1.forward = lambda x: (
        called.append(1)
        or nn.functional.linear(  # type: ignore[method-assign]
            x, layer.linear1.weight, layer.linear1.bias
        )
    )
    with torch.inference_mode():
        layer(torch.zeros(1, 2, 4))
    assert called


def test_nothing_runs_that_nobody_allowed(tmp_path: Path):
    (tmp_path / "own_nets.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(ConfigError, match=r"--code own_nets\.py"):
        made()
    assert not (tmp_path / "ran").exists()
