import inspect
import json
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from tiny import quantizer_options
from tiny_students import (
    MEAN,
    METHODS,
    MODELS,
    SHAPE,
    STD,
    eight_bit_ends,
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
from kd_ray.export.lower import lowered
from kd_ray.export.net import PixelCodes, Product, Threshold, forms_of, shapes_of
from kd_ray.export.packed import packed_codes, write_packed
from kd_ray.models import build_model
from kd_ray.quant import quantize_
from kd_ray.quant.codes import float_thresholds, weight_codes
from kd_ray.quant.quantizers import Quantizer
from kd_ray.training.feed import normalized

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


@pytest.mark.parametrize(("model", "method"), METHODS)
def test_with_ends_of_eight_bits_every_sum_is_an_integer(model: str, method: str, tmp_path: Path):
    student = eight_bit_ends(model, method)
    steps = steps_of(student)
    assert all(step.is_integer for step in steps if isinstance(step, Product))
    assert isinstance(steps[1], PixelCodes)
    wanted, logits = torch_logits(student, pictures(300)), read(tmp_path, student)(pictures(300))
    np.testing.assert_array_equal(logits.argmax(1), wanted.argmax(1))
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_table_has_the_codes_that_torch_makes_of_every_pixel():
    student = eight_bit_ends("convnet", "dorefa")
    quantizer = student.get_submodule("block1_1.conv.input_quantizer")
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    quantized = quantizer(normalized(torch.from_numpy(every), *map(torch.tensor, (MEAN, STD))))
    table = steps_of(student)[1]
    assert isinstance(table, PixelCodes)
    step = quantizer.grid()[1]
    np.testing.assert_array_equal(
        table.codes.astype(int) - 128, (quantized / step).round().int().numpy().reshape(3, 256)
    )


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
    arrays = load_file(packed(tmp_path, of_method("dorefa", 2, 1)))
    assert set(arrays) == {"float32", "int16", "codes", "description"}
    weights = (10 * 6 * 9 // 4, 12 * 10 * 9 // 4)
    turned = 2  # of the 10 channels that have thresholds, at one bit each
    assert arrays["codes"].nbytes == sum(weights) + turned


def test_two_bit_weights_are_a_fourteenth_of_the_float_ones(tmp_path: Path):
    shape = (3, 32, 32)
    network = build_model("convnet", {}, shape=shape, classes=10, seed=0)
    floats = sum(4 * each.numel() for each in network.state_dict().values() if each.dim())
    quantize_(network, quantizer_options("dorefa", 2, 2), shape)
    steps = lowered(with_statistics_(network), shape, MEAN, STD)
    about = {"shape": shape, "class_names": [str(digit) for digit in range(10)]}
    about |= {"recipe": "svhn-w2a2", "student_sha256": sha256(b"a student").hexdigest()}
    write_packed(tmp_path / "student", steps, about)
    assert 14 * (tmp_path / "student").stat().st_size <= floats


def test_file_that_is_altered_anywhere_is_refused(tmp_path: Path):
    file = packed(tmp_path, of_method("dorefa", 2, 1))
    whole = file.read_bytes()

    @settings(deadline=None)
    @given(st.integers(0, 8 * len(whole) - 1))
    def law(bit: int) -> None:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"must be a packed student .* as it was written"):
            deployed.load(file)

    law()


def forged(file: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    """A file whose sha256 is right, whatever is in it."""
    plain = save(arrays)
    start = 8 + int.from_bytes(plain[:8], "little")
    entry = {
        "format": deployed.FORMAT,
        "sha256": deployed.digest_of(json.loads(plain[8:start]), plain[start:]),
    }
    file.write_bytes(save(arrays, {deployed.METADATA: json.dumps(entry)}))
    return file


def test_description_that_inflates_to_gigabytes_is_refused(tmp_path: Path):
    stream = zlib.compressobj(9)
    bomb = b"".join(stream.compress(bytes(2**20)) for _ in range(64)) + stream.flush()
    file = forged(tmp_path / "bomb", {"description": np.frombuffer(bomb, np.uint8)})
    with pytest.raises(CheckpointError, match="its description has no end within 16777216 bytes"):
        deployed.load(file)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("float32", [2**40]), ("uint8", [2**20, 2**20]), ("uint99", [1]), ("int16", [-1, -1])],
)
def test_array_that_is_not_in_the_file_is_refused(kind: str, shape: list[int], tmp_path: Path):
    description = {"steps": [{"kind": "relu", "arrays": {"weights": [kind, shape]}}]}
    text = zlib.compress(json.dumps(description).encode())
    arrays: dict[str, NDArray[Any]] = {"description": np.frombuffer(text, np.uint8)}
    arrays |= {"codes": np.zeros(12, np.uint8), "float32": np.zeros(3, np.float32)}
    with pytest.raises(CheckpointError, match="cannot be read as one"):
        deployed.load(forged(tmp_path / "forged", arrays | {"int16": np.zeros(1, np.int16)}))


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
