"""An exported C student compiled and called from here, to be compared and evaluated."""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kd_ray.errors import ConfigError
from kd_ray.export.c import C_FILE
from kd_ray.export.net import Array

FLAGS = ("-std=c11", "-Wall", "-Wextra", "-O3", "-march=native", "-shared", "-fPIC")


def c_runner(folder: Path) -> Callable[[Array], Array]:
    """Logits `(N, K)` of pixels `(N, C, H, W)` uint8 by the `student.c` in a folder.

    Compiled by `cc`, or what the environment variable CC says.

    Raises:
        ConfigError: there is no compiler, or it does not compile the file.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise ConfigError(
            f"c: is compiled to be compared with its student, but there is no {compiler[0]} here; "
            "install a C compiler, or name one in CC"
        )
    with tempfile.TemporaryDirectory(prefix="kd-ray-") as home:
        library = Path(home) / "student.so"
        command = [*compiler, *FLAGS, str(folder / C_FILE), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [""]
            raise ConfigError(
                f"c: {compiler[0]} must compile {C_FILE}, but says {lines[0][:160]!r}; name "
                "another compiler in CC"
            )
        call = ctypes.CDLL(str(library)).student_logits  # stays loaded when its file is gone
    made = (ctypes.c_float * _classes(folder))()
    call.argtypes, call.restype = (ctypes.c_char_p, ctypes.c_void_p), None
    seen = np.ctypeslib.as_array(made)

    def run(pixels: Array) -> Array:
        logits = np.empty((len(pixels), len(made)), np.float32)
        for row, picture in enumerate(pixels):
            call(picture.tobytes(), made)  # bytes are handed over sooner than an array's address
            logits[row] = seen
        return logits

    return run


def _classes(folder: Path) -> int:
    """The number of classes that the header names."""
    text = (folder / C_FILE).with_suffix(".h").read_text(encoding="utf-8")
    return int(text.split("#define STUDENT_CLASSES ")[1].split()[0])
