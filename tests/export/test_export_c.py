import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny import quantizer_options
from tiny_students import MODELS, SHAPE, eight_bit_ends, pictures, read, steps_of, tiny_student
from torch import nn

from kd_ray.errors import ConfigError
from kd_ray.export.c import write_c
from kd_ray.export.c_memory import planned
from kd_ray.export.c_run import c_runner

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
NAMES = ["null", 'a "quoted" one', "zwölf", *map(str, range(3, 10))]
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")

MAIN = """
#include "student.h"
#include <stdio.h>
int main(void)
{
    static uint8_t pixels[STUDENT_CHANNELS * STUDENT_HEIGHT * STUDENT_WIDTH];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1)
        printf("%d %s\\n", student_classify(pixels), student_class_names[0]);
    return 0;
}
"""


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
@pytest.mark.parametrize("model", MODELS)
def test_with_ends_of_eight_bits_c_has_the_logits_of_the_reference_to_the_last_bit(
    model: str, tmp_path: Path
):
    student = eight_bit_ends(model, "lsq")
    wanted = read(tmp_path, student)(pictures(300))
    np.testing.assert_array_equal(c_runner(written(tmp_path, student))(pictures(300)), wanted)


@needs_compiler
@pytest.mark.parametrize("flags", [("-O3",), ("-O1", "-fsanitize=address,undefined")])
def test_file_compiles_without_a_warning_and_classifies_by_itself(
    flags: tuple[str, ...], tmp_path: Path
):
    student = tiny_student("convnet", quantizer_options("dorefa", 2, 1))
    written(tmp_path, student)
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    files = [str(tmp_path / name) for name in ("main.c", "student.c")]
    program = tmp_path / "classify"
    subprocess.run(["cc", *STRICT, *flags, *files, "-o", str(program)], check=True)
    answer = subprocess.run([program], input=pictures().tobytes(), capture_output=True, check=True)
    wanted = read(tmp_path, student)(pictures()).argmax(1)
    assert answer.stdout.decode().splitlines() == [f"{number} null" for number in wanted]


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
