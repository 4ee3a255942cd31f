"""Recipes, command lines and artefacts with something wrong in them, made from a seed.

Each maker draws one case in a folder of its own and says what `kd-ray` is to be called with.
"""

import copy
import random
import shutil
from collections.abc import Callable, Mapping
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

from damage import BYTES, NASTY, PLACES, TEXTS, Case, inline, keys, other_shape
from pictures import make_pictures
from subjects import RECIPE, SPECIALISTS

TYPED = (
    *("", " ", "-1", "0", "1", "2", "nan", "inf", "1e999", "abc", "1,2", "1,1", ",", "9" * 300),
    *("x" * 300, "é☃", "../../x", "~nobody/x", "/dev/null", "/proc/self/mem", "[", "{}", "a=b"),
    *("s3://", "s3:///x", "gs://x", "http://", "127.0.0.1:1", "127.0.0.1:99999", "::1", "a\udcffb"),
    *("train.epochs=1e999", "train.=1", "=", "quickstrat", "quickstart", "mnist-sweep", "--"),
)
"""Words for any place of a command line."""

SLOW = "compile"
"""A key that is left alone: compiling takes a minute before the first epoch."""

OPTIONAL = (
    'student.quantizer={method="dorefa",weight_bits=2,activation_bits=2,first_last_float=false}',
    SPECIALISTS,
    'train.schedule={name="step",milestones=[2],factors=[0.1]}',
)


def make_recipe(draw: random.Random, folder: Path) -> Case:
    """A recipe with a key of a nasty value, or a file that is damaged as a text."""
    path, command = folder / "tiny.toml", draw.choice(["check", "check", "run", "tune run"])
    arguments = [*command.split(), "tiny.toml"]
    arguments += ["--local", "--runs", "runs"] * (command != "check")
    path.write_text(RECIPE)
    if draw.random() < 0.2:
        how, content = draw.choice(list(TEXTS.items()))
        path.write_bytes(content(draw, RECIPE.encode()))
        return Case("recipe", how, arguments)
    whole = copy.deepcopy(whole_recipe(path))
    *above, last = way = draw.choice([each for each in sorted(keys(whole)) if each[-1] != SLOW])
    key, table = ".".join(way), reduce(getitem, above, whole)
    alike = [value for value in NASTY if isinstance(value, type(table[last]))]
    value = draw.choice(alike if alike and draw.random() < 0.6 else NASTY)
    if draw.random() < 0.5:
        said = f"{key}={value if isinstance(value, str) else inline(value)}".replace("\0", "")
        return Case("recipe", said[:100], [*arguments, "--set", said])
    table[last] = value
    given = {name: value for name, value in whole.items() if value is not None}
    path.write_text("\n".join(f"{name} = {inline(value)}" for name, value in given.items()))
    return Case("recipe", f"{key} = {inline(value)}"[:100], arguments)


@cache
def whole_recipe(path: Path) -> dict[str, Any]:
    """A recipe with every key, as a table."""
    from kd_ray.pipeline import open_recipe

    return open_recipe(str(path), list(OPTIONAL)).model_dump(mode="json")


def make_line(draw: random.Random, folder: Path) -> Case:
    """A command line of nasty words."""
    import typer

    from kd_ray.cli import app

    words, command = [], typer.main.get_command(app)
    while commands := getattr(command, "commands", None):
        names = sorted(set(commands) - {"up", "join", "quickstart"})  # these would start
        words.append(draw.choice(names))
        command = commands[words[-1]]
    (folder / "tiny.toml").write_text(RECIPE)
    options: list[str] = []
    for parameter in command.params:
        value = draw.choice(["tiny.toml", "runs/tiny", *TYPED]).replace("\x00", "")
        if parameter.param_type_name == "argument":
            options += [value] * (draw.random() < 0.9)
        elif parameter.name in ("local", "address", "runs"):
            continue  # what starts nothing, below
        elif draw.random() < 0.3:
            options += [parameter.opts[0], *[value] * (not getattr(parameter, "is_flag", False))]
    having = {parameter.name for parameter in command.params}
    options += ["--address", "127.0.0.1:1"] * ("address" in having and "local" not in having)
    options += ["--runs", draw.choice(["runs", *TYPED[:3]])] * ("runs" in having)
    options += ["--local"] * ("local" in having)
    if words[-1] in ("reproduce", "views", "exercises", "run", "teach", "specialize", "distill"):
        options += ["--set", "train.epochs=0"]  # refused in any case
    if draw.random() < 0.2:
        options.insert(draw.randrange(len(options) + 1), draw.choice(TYPED))
    arguments = [*words, *options]
    return Case("line", " ".join(arguments)[:100], arguments)


COMMANDS = (
    *("run tiny.toml --local", "distill tiny.toml --local", "tune run tiny.toml --local"),
    *("tune show runs/tiny", "tune best runs/tiny", "tune resume runs/tiny --epochs 6 --local"),
    *(
        "tune retrain runs/tiny --seeds 7 --epochs 1 --local",
        "report runs/tiny",
        "inspect runs/tiny",
    ),
    *("inspect FOLDER", "inspect FOLDER", "evaluate FOLDER", "evaluate FOLDER"),
    *("audit runs/tiny/transfer_set", "audit runs/tiny/transfer_set --all"),
)
"""Commands that read artefacts; FOLDER is that of the damaged file."""


def make_artefact(draw: random.Random, folder: Path) -> Case:
    """A finished run and sweep, one of whose files is damaged, and a command that reads it."""
    runs = folder / "runs"
    shutil.copytree(folder.parent / "finished" / "runs", runs)
    (folder / "tiny.toml").write_text(RECIPE)
    files = sorted(path for path in runs.rglob("*") if path.is_file() and path.name != ".lock")
    kind = draw.choice(sorted({path.suffix + path.name[:6] for path in files}))
    path = draw.choice([path for path in files if path.suffix + path.name[:6] == kind])
    whole = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.5:
        how = "JSON of another shape"
        path.write_bytes(other_shape(draw, whole))
    elif draw.random() < 0.7:
        texts = TEXTS if path.suffix in (".json", ".toml") else BYTES
        how = draw.choice(list(texts))
        path.write_bytes(texts[how](draw, whole))
    else:
        how = draw.choice(list(PLACES))
        path.unlink()
        PLACES[how](path)
    command = draw.choice(COMMANDS)
    at = str(path.parent.relative_to(folder))
    arguments = [at if word == "FOLDER" else word for word in command.split()]
    told = f"{path.relative_to(runs)}: {how}: {command}"
    return Case("artefact", told, arguments, lambda: taken(path, whole, how, command))


def taken(path: Path, whole: bytes, how: str, command: str) -> str:
    """What is wrong with a command that took a damaged file as it is."""
    data = path.name == "model.safetensors" or path.suffix == ".parquet"
    if not data or path.name == "trials.parquet" or (path.is_file() and path.read_bytes() == whole):
        return ""
    reads = (
        command.startswith("audit") if path.suffix == ".parquet" else command == "evaluate FOLDER"
    )
    own = command.startswith("run ") and "sweep" not in path.parts  # trials are those of `tune run`
    absent = how in ("empty", "missing", "a folder") and own
    return f"exit 0, though {path.name} is damaged" if reads or absent else ""


MAKERS: Mapping[str, Callable[[random.Random, Path], Case]] = {
    "recipe": make_recipe,
    "line": make_line,
    "pictures": make_pictures,
    "artefact": make_artefact,
}


def make(seed: int, number: int, folder: Path, only: list[str]) -> Case:
    """The case of a number, made in an empty folder whose neighbour `finished` has a run."""
    draw = random.Random(f"{seed} {number}")
    return MAKERS[draw.choice(only)](draw, folder)
