import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tiny import quantizer_options
from tiny_students import (
    METHODS,
    MODELS,
    SHAPE,
    eight_bit_ends,
    pictures,
    read,
    steps_of,
    tiny_student,
    torch_logits,
    with_statistics_,
)
from torch import nn

from kd_ray.errors import CheckpointError, ConfigError, DataError
from kd_ray.export.net import CODES, forms_of
from kd_ray.export.onnx_file import Model, write_onnx
from kd_ray.export.runtimes import library, onnx_runner
from kd_ray.models import build_model
from kd_ray.quant import quantize_

BITS = [(1, 1), (2, 2), (3, 4), (1, 8), (8, 8)]
ABOUT = {"recipe": "tiny", "shape": SHAPE, "class_names": [str(n) for n in range(10)]}


def written(folder: Path, network: nn.Module) -> Path:
    write_onnx(folder / "student.onnx", steps_of(network), ABOUT)
    return folder / "student.onnx"


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def codes_of(file: Path, network: nn.Module) -> dict[int, NDArray[Any]]:
    """The codes of each step that makes such, as ONNX Runtime computes them."""
    steps = steps_of(network)
    model = Model(steps)
    model.write()
    names = {n: model.at[n] for n, form in enumerate(forms_of(steps)) if form == CODES}
    proto = onnx.load(file)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    values = session.run(list(names.values()), {"pixels": pictures()})
    return dict(zip(names, values, strict=True))


def check_like_the_reference(folder: Path, network: nn.Module) -> Path:
    file, reference = written(folder, network), read(folder, network)
    wanted = reference.values(pictures())
    for number, codes in codes_of(file, network).items():
        np.testing.assert_array_equal(codes, wanted[number])
    np.testing.assert_allclose(onnx_runner(file)(pictures()), wanted[-1], atol=1e-4)
    return file


@pytest.mark.parametrize(("weights", "inputs"), BITS)
@pytest.mark.parametrize(("model", "method"), METHODS)
def test_codes_are_those_of_the_reference(
    model: str, method: str, weights: int, inputs: int, tmp_path: Path
):
    student = tiny_student(model, quantizer_options(method, weights, inputs))
    if (model, inputs) == ("resnet20", 8):  # where a float sum may lie at one of 256 thresholds
        logits = onnx_runner(written(tmp_path, student))(pictures())
        np.testing.assert_allclose(logits, read(tmp_path, student)(pictures()), atol=1e-2)
    else:
        check_like_the_reference(tmp_path, student)


@pytest.mark.parametrize("model", MODELS)
def test_a_float_student_answers_as_torch_does(model: str, tmp_path: Path):
    student = tiny_student(model, None)
    logits = onnx_runner(written(tmp_path, student))(pictures())
    np.testing.assert_allclose(logits, torch_logits(student, pictures()), atol=1e-4)


@pytest.mark.parametrize(("model", "method"), METHODS)
def test_with_ends_of_eight_bits_everything_is_the_reference_s(
    model: str, method: str, tmp_path: Path
):
    check_like_the_reference(tmp_path, eight_bit_ends(model, method))


@pytest.mark.parametrize("bits", [(2, 2), (7, 8), (8, 8)])
def test_linear_layers_one_after_the_other_keep_their_codes(bits: tuple[int, int], tmp_path: Path):
    network = build_model("mlp", {"hidden": [20, 24, 16]}, shape=SHAPE, classes=10, seed=0)
    quantize_(network, quantizer_options("lsq", *bits), SHAPE)
    file = check_like_the_reference(tmp_path, network.eval())
    assert operators(file)["QLinearConv"] == (bits == (2, 2))


@pytest.mark.parametrize("bits", [(2, 2), (7, 8), (8, 8)])
def test_groups_dilation_pooling_and_turned_channels_are_right(
    bits: tuple[int, int], tmp_path: Path
):
    torch.manual_seed(1)  # with some others, a float sum of the first layer lies at a threshold
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 36, 3), nn.BatchNorm2d(36), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, 1), nn.Conv2d(36, 8, 2, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 34, 1), nn.BatchNorm2d(34), nn.ReLU()),
        *(nn.Conv2d(34, 8, 2, dilation=(2, 1), stride=(1, 2), padding=1), nn.Flatten()),
        nn.Linear(48, 10),
    )
    quantize_(network, quantizer_options("dorefa", *bits), SHAPE)
    check_like_the_reference(tmp_path, with_statistics_(network))


def test_products_of_few_bits_are_integer_convolutions(tmp_path: Path):
    student = tiny_student("convnet", quantizer_options("dorefa", 2, 2))
    found = operators(written(tmp_path, student))
    assert (found["QLinearConv"], found["Conv"]) == (1, 2)  # the first is float, the last a sum
    assert not found["GreaterOrEqual"]


def test_weights_are_codes_of_two_bits(tmp_path: Path):
    model = onnx.load(written(tmp_path, tiny_student("convnet", quantizer_options("lsq", 2, 1))))
    few = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT2]
    assert [len(t.raw_data) for t in few] == [10 * 6 * 9 // 4, 12 * 10 * 9 // 4]


def test_model_is_of_standard_operators_and_says_where_it_comes_from(tmp_path: Path):
    model = onnx.load(written(tmp_path, tiny_student("resnet20", quantizer_options())))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 25)]
    assert {node.domain for node in model.graph.node} == {""}
    texts = {each.key: each.value for each in model.metadata_props}
    assert texts["recipe"] == "tiny"
    assert json.loads(texts["class_names"]) == ABOUT["class_names"]
    assert json.loads(texts["shape"]) == list(SHAPE)


def test_equal_students_have_equal_files(tmp_path: Path):
    first, second = (
        written(tmp_path, tiny_student("convnet", quantizer_options())).read_bytes()
        for _ in range(2)
    )
    assert first == second


def test_pixels_of_another_shape_are_refused(tmp_path: Path):
    run = onnx_runner(written(tmp_path, tiny_student("convnet", None)))
    for pixels in (pictures()[:, :2], pictures().astype(np.float32), pictures()[0]):
        with pytest.raises(DataError, match=r"must be uint8 of shape \(N, 3, 12, 12\), but got"):
            run(pixels)
    assert run(pictures(0)).shape == (0, 10)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0d"])
def test_another_file_is_refused(content: bytes, tmp_path: Path):
    file = tmp_path / "student.onnx"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"must be an ONNX model that onnxruntime"):
        onnx_runner(file)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_library_that_is_missing_or_too_old_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    module = sys.modules[name]
    monkeypatch.setattr(module, "__version__", "1.9.3")
    with pytest.raises(ConfigError, match=rf"needs {name} >= 1\.2\d, but 1\.9\.3 is installed"):
        library(name)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"needs {name} >= 1\.2\d, which is not installed"):
        library(name)
