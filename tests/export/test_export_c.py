import platform
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import quantizer_options
from tiny_students import (
    MEAN,
    MODELS,
    SHAPE,
    STD,
    eight_bit_ends,
    pictures,
    read,
    steps_of,
    tiny_student,
    with_statistics_,
)
from torch import nn

from kd_ray import deployed
from kd_ray.errors import ConfigError
from kd_ray.export import c_chain
from kd_ray.export.c import write_c
from kd_ray.export.c_memory import planned
from kd_ray.export.c_run import c_runner
from kd_ray.export.c_tiles import FEWEST, WINDOWS, tiled
from kd_ray.export.lower import lowered
from kd_ray.export.net import Affine, Threshold
from kd_ray.export.packed import write_packed
from kd_ray.models import build_model
from kd_ray.quant import quantize_

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
NAMES = ["null", 'a "quoted" one', "zwölf", *map(str, range(3, 10))]
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")

MAIN = """
#include "student.h"
#include <stdio.h>
int main(void)
{
    static uint8_t pixels[STUDENT_CHANNELS * STUDENT_HEIGHT * STUDENT_WIDTH];
    float logits[STUDENT_CLASSES];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        printf("%d %s", student_classify(pixels), student_class_names[0]);
        student_logits(pixels, logits);
        for (int k = 0; k < STUDENT_CLASSES; ++k)
            printf(" %a", logits[k]);
        putchar('\\n');
    }
    return 0;
}
"""
MACHINES = [
    *("native", "x86-64", "x86-64-v2", "haswell", "cascadelake", "icelake-server"),
    "sapphirerapids",
]
"""Of instructions of their own each: none, bytes by 4, by 8 and by 16 channels, counted bits, and
tiles."""


def written(folder: Path, network: nn.Module) -> Path:
    write_c(folder, steps_of(network), {"shape": SHAPE, "class_names": NAMES})
    return folder


@needs_compiler
@pytest.mark.parametrize(
    ("model", "method", "weights", "inputs"),
    [
        ("convnet", "dorefa", 2, 2),
        ("convnet", "lsq", 1, 1),
        ("convnet", "megvii", 2, 1),
        ("convnet", "pact", 8, 6),
        ("convnet", "dorefa", 2, 32),
        ("mlp", "lsq", 1, 2),
    ],
)
def test_c_answers_as_the_reference_does(
    model: str, method: str, weights: int, inputs: int, tmp_path: Path
):
    student = tiny_student(model, quantizer_options(method, weights, inputs))
    wanted = read(tmp_path, student)(pictures())
    logits = c_runner(written(tmp_path, student))(pictures())
    np.testing.assert_allclose(logits, wanted, rtol=1e-6, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=pytest.mark.slow) if m == "resnet20" else m for m in MODELS],
)
def test_with_ends_of_eight_bits_c_has_the_logits_of_the_reference_to_the_last_bit(
    model: str, tmp_path: Path
):
    student = eight_bit_ends(model, "lsq")
    wanted = read(tmp_path, student)(pictures(300))
    np.testing.assert_array_equal(c_runner(written(tmp_path, student))(pictures(300)), wanted)


def answers(
    folder: Path, *flags: str, pixels: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    """Classes and logits of a program for some pictures, compiled without a warning."""
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    files = [str(folder / name) for name in ("main.c", "student.c")]
    command = ["cc", *STRICT, *flags, *files, "-o", str(folder / "classify"), "-lm"]
    subprocess.run(command, check=True)
    seen = (pictures() if pixels is None else pixels).tobytes()
    run = subprocess.run([folder / "classify"], input=seen, capture_output=True, check=False)
    if run.returncode == -signal.SIGILL:
        pytest.skip("this machine has not these instructions")
    assert run.returncode == 0, run.stderr.decode()
    lines = [line.split() for line in run.stdout.decode().splitlines()]
    assert {line[1] for line in lines} == {"null"}
    logits = [[float.fromhex(number) for number in line[2:]] for line in lines]
    return [int(line[0]) for line in lines], np.float32(logits)


def taken(machine: str) -> tuple[str, ...]:
    """The flag for a machine, if the compiler here makes code for it."""
    flags = () if platform.machine() not in ("x86_64", "AMD64") else (f"-march={machine}",)
    if not flags and machine != "native":
        pytest.skip("this is another kind of machine")
    return flags


@needs_compiler
@pytest.mark.parametrize(
    "machine",
    [
        machine
        if machine in ("native", "x86-64")
        else pytest.param(machine, marks=pytest.mark.slow)
        for machine in MACHINES
    ],
)
@pytest.mark.parametrize("bits", [(2, 2), (2, 1)])
def test_every_machine_has_the_same_codes(bits: tuple[int, int], machine: str, tmp_path: Path):
    student = eight_bit_ends("convnet", "lsq", bits)
    wanted = read(tmp_path, student)(pictures())
    classes, logits = answers(written(tmp_path, student), "-O3", *taken(machine))
    np.testing.assert_array_equal(logits, wanted)
    assert classes == wanted.argmax(1).tolist()


@needs_compiler
@pytest.mark.parametrize("allowed", [True, False])
def test_tiles_of_rows_strides_and_odd_channels_have_the_same_codes(allowed: bool, tmp_path: Path):
    shape = (3, 20, 40)
    layers = [(3, 9, 1), (9, 24, 2), (24, 40, 1), (40, 10, 1)]
    network = nn.Sequential()
    for inputs, outputs, stride in layers:
        network.append(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
        network.append(nn.BatchNorm2d(outputs))
        network.append(nn.ReLU())
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10)])
    quantize_(network, quantizer_options("dorefa", 2, 2), shape)
    steps = lowered(with_statistics_(network), shape, MEAN, STD)
    about = {"shape": shape, "class_names": NAMES}
    write_packed(tmp_path / "student", steps, about)
    write_c(tmp_path, steps, about)
    seen = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    flags = ["-O3", *taken("native")]
    if not allowed:  # by Linux, to which the answer is made to be no
        (tmp_path / "denied.c").write_text("long denied(long n, ...) { return -(n > 0); }")
        flags += ["-Dsyscall=denied", str(tmp_path / "denied.c")]
    _, logits = answers(tmp_path, *flags, pixels=seen)
    wanted = deployed.load(tmp_path / "student")(seen)
    np.testing.assert_allclose(logits, wanted, rtol=1e-6, atol=1e-6)


@given(
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 9),
)
def test_lines_of_tiles_see_every_window_once_and_nothing_beside_the_input(
    sides: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], channels: int
):
    height, width = (s * (n - 1) + k for n, k, s in zip(sides, kernel, stride, strict=True))
    fours = -(-kernel[1] * channels // 4)
    pairs = {"kernel": kernel, "stride": stride, "dilation": (1, 1)}
    values = {f"{name}_{axis}": pair[axis] for name, pair in pairs.items() for axis in (0, 1)}
    values |= {"padded_height": height, "padded_width": width}
    lines = tiled(values | {"in_channels": channels, "fours": fours})
    if not lines:
        assert sides[1] < FEWEST
        return
    seen, last = [], 0
    for line in range(lines["lines"]):
        for at in range(-(-lines["positions"] // WINDOWS) * WINDOWS):
            first = (line * stride[0] * width + at * stride[1]) * channels
            last = max(last, first + (kernel[0] - 1) * width * channels + 4 * fours)
            row, column = line + at // lines["across"], at % lines["across"]
            if at < lines["positions"] and column < sides[1]:
                seen.append((row, column))
                assert first == (row * stride[0] * width + column * stride[1]) * channels
    assert seen == sorted(np.ndindex(sides))
    assert last == lines["seen"]


@needs_compiler
@pytest.mark.parametrize(
    ("model", "machine"),
    [
        *((model, "native") for model in MODELS if model != "resnet20"),
        pytest.param("resnet20", "native", marks=pytest.mark.slow),
        *(pytest.param("convnet", m, marks=pytest.mark.slow) for m in ("x86-64", "haswell")),
    ],
)
def test_nothing_is_read_or_written_beside_the_arrays(model: str, machine: str, tmp_path: Path):
    student = tiny_student(model, quantizer_options("lsq", 2, 1))
    checks = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    wanted = read(tmp_path, student)(pictures())
    _, logits = answers(written(tmp_path, student), *checks, *taken(machine))
    np.testing.assert_allclose(logits, wanted, rtol=1e-6, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("machine", ["native", "x86-64"])
def test_codes_of_a_float_layer_are_right_where_a_limit_is_near(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    student = tiny_student("convnet", quantizer_options("dorefa", 2, 2))
    wanted = read(tmp_path, student)(pictures())
    # Every sum is near then, or, of single precision alone, none of them is.
    for rounding in (2.0**-6, 2.0**-24):
        monkeypatch.setattr(c_chain, "ROUNDING", rounding)
        _, logits = answers(written(tmp_path, student), "-O3", *taken(machine))
        np.testing.assert_allclose(logits, wanted, rtol=1e-6, atol=1e-6)


def test_limits_of_a_float_layer_are_the_least_sums_that_make_the_codes():
    steps = steps_of(tiny_student("convnet", quantizer_options("pact", 2, 2), seed=3))
    (chain,) = [each for each in c_chain.chains_of(steps).values() if len(each.bound)]
    scale, threshold = steps[chain.product + 1], steps[chain.inside[0] + 1]
    assert isinstance(scale, Affine)
    assert isinstance(threshold, Threshold)
    assert (scale.scale < 0).any()
    sign = np.where(scale.scale < 0, -1, 1).astype(np.float32)
    for limits, wanted in ((chain.limits, True), (np.nextafter(chain.limits, -np.inf), False)):
        values = limits.astype(np.float32) * sign * scale.scale.astype(np.float32)
        values = np.maximum(values + scale.bias.astype(np.float32), 0)
        assert ((values >= threshold.thresholds[0][:, None]) == wanted).all()


@pytest.mark.parametrize("bits", [(2, 2), (2, 1), (1, 1)])
def test_shipped_student_takes_less_than_a_megabyte_beside_its_weights(
    bits: tuple[int, int], tmp_path: Path
):
    shape = (3, 32, 32)
    network = build_model("convnet", {}, shape=shape, classes=10, seed=0)
    quantize_(network, quantizer_options("dorefa", *bits), shape)
    steps = lowered(network.eval(), shape, MEAN, STD)
    write_c(tmp_path, steps, {"shape": shape, "class_names": NAMES})
    text = (tmp_path / "student.c").read_text(encoding="utf-8")
    sizes = {"uint8_t": 1, "int16_t": 2, "int32_t": 4, "float": 4}
    found = re.findall(r"static _Thread_local _Alignas\(64\) (\w+) \w+\[(\d+)\];", text)
    assert found
    assert text.count("_Thread_local _Alignas") == len(found)
    assert sum(sizes[kind] * int(size) for kind, size in found) < 2**20 / 4
    assert (
        "static"
        not in text.replace("static const", "").replace("static _T", "").split("logits(")[-1]
    )


@needs_compiler
def test_groups_dilation_and_borders_are_those_of_the_layer(tmp_path: Path):
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(4, 6, (2, 1), padding=(1, 0), groups=2), nn.ReLU(), nn.Flatten()),
        nn.Linear(6 * 4 * 3, 10),
    ).eval()
    wanted = read(tmp_path, network)(pictures())
    logits = c_runner(written(tmp_path, network))(pictures())
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)


def test_values_in_use_at_one_time_do_not_share_memory():
    steps = steps_of(tiny_student("resnet20", quantizer_options("lsq", 2, 2)))
    memory = planned(steps, [step.sources for step in steps])
    values = np.full(memory.sizes["float"], -1)
    for number, (step, (form, start)) in enumerate(zip(steps, memory.places, strict=True)):
        for source in step.sources:
            its_form, its_start = memory.places[source]
            assert its_form != "float" or values[its_start] == source
        if form == "float":
            values[start] = number
    assert memory.sizes["float"] < 6 * 4 * 12 * 12


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(ConfigError, match="there is no no-such-compiler here; install"):
        c_runner(tmp_path)


@needs_compiler
def test_what_does_not_compile_is_said(tmp_path: Path):
    written(tmp_path, tiny_student("mlp", None))
    (tmp_path / "student.c").write_text("int student_classify(", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cc must compile student\.c, but says"):
        c_runner(tmp_path)
