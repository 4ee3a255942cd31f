import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny import quantizer_options
from tiny_students import (
    METHODS,
    MODELS,
    SHAPE,
    packed,
    pictures,
    read,
    steps_of,
    tiny_student,
    torch_logits,
    with_statistics_,
)
from torch import nn

from kd_ray import deployed
from kd_ray.errors import CheckpointError, ConfigError, DataError
from kd_ray.export.net import Product, Threshold, forms_of, shapes_of
from kd_ray.export.packed import packed_codes
from kd_ray.quant import quantize_
from kd_ray.quant.codes import float_thresholds, weight_codes
from kd_ray.quant.quantizers import Quantizer

BITS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4)]


def of_method(method: str, weights: int, inputs: int) -> torch.nn.Module:
    return tiny_student("convnet", quantizer_options(method, weights, inputs))


@pytest.mark.parametrize(("weights", "inputs"), BITS)
@pytest.mark.parametrize(("model", "method"), METHODS)
def test_reader_answers_as_torch_does(
    model: str, method: str, weights: int, inputs: int, tmp_path: Path
):
    student = tiny_student(model, quantizer_options(method, weights, inputs))
    wanted = torch_logits(student, pictures())
    logits = read(tmp_path, student)(pictures())
    np.testing.assert_array_equal(logits.argmax(1), wanted.argmax(1))
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_a_float_student_is_exported_too(model: str, tmp_path: Path):
    student = tiny_student(model, None)
    wanted = torch_logits(student, pictures())
    np.testing.assert_allclose(read(tmp_path, student)(pictures()), wanted, atol=1e-4)


@pytest.mark.parametrize(("weights", "inputs"), [(8, 8), (5, 6)])
@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq", "pact"])
def test_with_many_levels_a_float_sum_of_torch_may_miss_the_next_one_but_no_more(
    method: str, weights: int, inputs: int, tmp_path: Path
):
    student = of_method(method, weights, inputs)
    wanted = torch_logits(student, pictures())
    np.testing.assert_allclose(read(tmp_path, student)(pictures()), wanted, atol=1e-2)


def test_sums_are_the_integers_of_weights_and_inputs(tmp_path: Path):
    student = read(tmp_path, of_method("dorefa", 2, 2))
    values = student.values(pictures(5))
    steps = steps_of(of_method("dorefa", 2, 2))
    found = [n for n, form in enumerate(forms_of(steps)) if form == "sums"]
    assert len(found) == 2
    for number in found:
        step = steps[number]
        assert isinstance(step, Product)
        codes = torch.from_numpy(values[step.sources[0]].astype(np.float64))
        weights = torch.from_numpy(step.integers.astype(np.float64))
        sums = nn.functional.conv2d(codes, weights, stride=step.stride, padding=step.padding)
        np.testing.assert_array_equal(values[number], sums.numpy())
        assert np.abs(sums.numpy()).max() <= step.largest_sum


def test_between_low_bit_layers_there_are_no_floats():
    steps = steps_of(of_method("lsq", 2, 2))
    forms = forms_of(steps)
    kinds = [(step.kind, form) for step, form in zip(steps, forms, strict=True)]
    assert kinds[5:9] == [
        ("threshold", "codes"),
        ("product", "sums"),
        ("threshold", "codes"),
        ("product", "sums"),
    ]


def test_shapes_are_those_of_the_values(tmp_path: Path):
    for model in MODELS:
        student = tiny_student(model, quantizer_options())
        values = read(tmp_path, student).values(pictures(2))
        assert [value.shape[1:] for value in values] == shapes_of(steps_of(student))


def test_a_negative_factor_of_batch_norm_turns_its_channels():
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.Conv2d(5, 6, 3), nn.Flatten(), nn.Linear(6 * 36, 10)),
    )
    quantize_(network, quantizer_options(), SHAPE)
    norm = network[3]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.5, -0.1]))
    (on_sums,) = [
        step
        for step in steps_of(network.eval())
        if isinstance(step, Threshold) and step.thresholds.dtype != np.float32
    ]
    assert on_sums.turned.tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq", "pact"])
def test_threshold_is_the_least_float_that_reaches_its_level(method: str, bits: int):
    quantizers = [
        module
        for name, module in of_method(method, 2, bits).named_modules()
        if isinstance(module, Quantizer) and not name.endswith("weight_quantizer")
    ]
    for quantizer in quantizers:
        low, step = quantizer.grid()
        least = torch.from_numpy(float_thresholds(quantizer))
        before = torch.nextafter(least, torch.tensor(-torch.inf))
        with torch.no_grad():
            at, under = (((quantizer(x) - low) / step).round() for x in (least, before))
        assert at.tolist() == list(range(1, 2**bits))
        assert (under < at).all()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("method", ["dorefa", "megvii", "lsq"])
def test_codes_stand_for_the_quantized_weights(method: str, bits: int):
    for module in of_method(method, bits, 2).modules():
        found = weight_codes(module)
        if found is None:
            continue
        weight = module.get_parameter("weight")
        quantized = module.get_submodule("weight_quantizer")(weight).detach().numpy()
        integers = found.factor * found.codes.astype(int) + found.shift
        np.testing.assert_allclose(found.scale * integers, quantized, atol=1e-6)


@given(st.integers(1, 8), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_codes_take_as_many_bits_as_asked_for_and_come_back(bits: int, count: int, seed: int):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    small = packed_codes(codes, bits)
    assert len(small) == -(-count * bits // 8)
    np.testing.assert_array_equal(deployed.unpacked(small, bits, [count]), codes)


def test_packed_file_is_a_safetensors_file_with_weights_at_their_bits(tmp_path: Path):
    file = packed(tmp_path, of_method("dorefa", 2, 1))
    arrays = load_file(file)
    sizes = {array.nbytes for name, array in arrays.items() if name.endswith("weights")}
    assert sizes == {6 * 3 * 9 * 4, 10 * 6 * 9 // 4, 12 * 10 * 9 // 4, 10 * 12 * 4}


def test_altered_file_is_refused(tmp_path: Path):
    file = packed(tmp_path, of_method("dorefa", 2, 1))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"must be as it was written, but its sha256 is"):
        deployed.load(file)


@pytest.mark.parametrize("content", [b"", b"no packed student", b"\x02" + bytes(7) + b"{}"])
def test_another_file_is_refused(content: bytes, tmp_path: Path):
    file = tmp_path / "other.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"must be a packed student"):
        deployed.load(file)


def test_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"must be a packed student"):
        deployed.load(tmp_path / "none.safetensors")


def test_pixels_of_another_shape_are_refused(tmp_path: Path):
    student = read(tmp_path, of_method("dorefa", 2, 1))
    for pixels in (pictures()[:, :2], pictures().astype(np.float32), pictures()[0]):
        with pytest.raises(DataError, match=r"must be uint8 of shape \(N, 3, 12, 12\), but got"):
            student(pixels)


def test_no_pictures_have_no_logits(tmp_path: Path):
    assert read(tmp_path, of_method("dorefa", 2, 1))(pictures(0)).shape == (0, 10)


def test_operation_without_an_export_is_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(400, 10))
    with pytest.raises(ConfigError, match=r"layer '1' is a GELU.*which has no export"):
        steps_of(network.eval())


def test_reader_is_short():
    assert inspect.getsource(deployed).count("\n") <= 250


def test_pooling_after_the_relu_of_a_turned_channel_is_right(tmp_path: Path):
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 2, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 2, dilation=2), nn.Flatten(), nn.Linear(8, 10)),
    )
    quantize_(network, quantizer_options(), SHAPE)
    with_statistics_(network)
    wanted = torch_logits(network, pictures())
    np.testing.assert_allclose(read(tmp_path, network)(pictures()), wanted, atol=1e-4)
