"""What a user may get wrong, made from a seed: recipes, command lines, pictures, artefacts.

Each maker draws one case in a folder of its own and says what `kd-ray` is to be called with.
"""

import copy
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from subjects import RECIPE, SPECIALISTS

DEEP = 5000
NASTY: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 10**5, 10**9, 99_999_999_999, 10**30, 2**31, 2**63, -(2**63)),
    *(0.0, -0.5, 0.5, 1.0, 1e-320, 1e308, -1e308, float("inf"), float("nan")),
    *("", " ", "none", "null", "mlp", "T^2", "1e999", "9" * 400, "x" * 5000, "é☃\u202e", "a\x00b"),
    *("../../x", "~nobody/x", "/proc/self/mem", "/dev/zero", "-", "--help", "${HOME}", "[", "{}"),
    *(True, False, [], [[]], {}, [0], [-1], [1, 1], [1e308, 1e308], ["a", 1], [10**5, 10**5]),
    *({"name": "mlp"}, {"name": ""}, {"name": "mlp", "hidden": [99_999_999_999]}, {"": 1}),
    *({"name": "step", "milestones": [-1]}, {"choice": []}, {"log_uniform": [0, 1]}),
)
"""Values for any key: each is wrong for most keys, and some are right for a few."""

TYPED = (
    *("", " ", "-1", "0", "1", "2", "nan", "inf", "1e999", "abc", "1,2", "1,1", ",", "9" * 300),
    *("x" * 300, "é☃", "../../x", "~nobody/x", "/dev/null", "/proc/self/mem", "[", "{}", "a=b"),
    *("s3://", "s3:///x", "gs://x", "http://", "127.0.0.1:1", "127.0.0.1:99999", "::1", "a\udcffb"),
    *(
        "train.epochs=1e999",
        "train.=1",
        "=",
        "quickstrat",
        "quickstart",
        "mnist-sweep",
        "--",
        "--x",
    ),
)
"""Words for any place of a command line."""

SLOW = "compile"
"""A key that is left alone: compiling takes a minute before the first epoch."""

OPTIONAL = (
    'student.quantizer={method="dorefa",weight_bits=2,activation_bits=2,first_last_float=false}',
    SPECIALISTS,
    'train.schedule={name="step",milestones=[2],factors=[0.1]}',
)


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        kind: the maker's name.
        about: what is wrong, in a line.
        arguments: of `kd-ray`.
        problem: asked after it was accepted; says what is wrong with that, if anything is.
    """

    kind: str
    about: str
    arguments: list[str]
    problem: Callable[[], str] = lambda: ""


def keys(table: Mapping[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """The way to each key of a table, those of inner tables included."""
    for key, value in table.items():
        yield *above, key
        if isinstance(value, dict):
            yield from keys(value, *above, key)


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
    if draw.random() < 0.5:  # as an override, of which a part is nasty too where it is a string
        said = f"{key}={value if isinstance(value, str) else inline(value)}".replace("\0", "")
        return Case("recipe", said[:100], [*arguments, "--set", said])
    table[last] = value
    path.write_text(
        "\n".join(f"{name} = {inline(value)}" for name, value in whole.items() if value is not None)
    )
    return Case("recipe", f"{key} = {inline(value)}"[:100], arguments)


@cache
def whole_recipe(path: Path) -> dict[str, Any]:
    """A recipe with every key, as a table."""
    from kd_ray.pipeline import open_recipe

    return open_recipe(str(path), list(OPTIONAL)).model_dump(mode="json")


def inline(value: Any) -> str:
    """A value as TOML in one line; of a table without its empty keys, which TOML lacks."""
    if isinstance(value, dict):
        inner = (f"{json.dumps(k)} = {inline(v)}" for k, v in value.items() if v is not None)
        return f"{{ {', '.join(inner)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def flipped(draw: random.Random, content: bytes) -> bytes:
    """One bit of it is another."""
    if not content:
        return b"\x01"
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def shuffled(draw: random.Random, content: bytes) -> bytes:
    """Some lines are missing or come twice."""
    lines = content.splitlines(keepends=True)
    return b"".join(draw.choices(lines, k=len(lines)))


BYTES: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    "a flipped bit": flipped,
    "truncated": lambda draw, content: content[: draw.randrange(max(1, len(content)))],
    "empty": lambda draw, content: b"",
    "garbage": lambda draw, content: draw.randbytes(200),
    "zeros": lambda draw, content: bytes(len(content)),
    "twice": lambda draw, content: content * 2,
}
"""Damage to the bytes of any file."""

TEXTS: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    **BYTES,
    "lines missing and twice": shuffled,
    "deep nesting": lambda draw, content: b"x = " + b"[" * DEEP + b"]" * DEEP + b"\n" + content,
    "deep tables": lambda draw, content: content + b"\n[" + b".".join([b"a"] * DEEP) + b"]\n",
    "many digits": lambda draw, content: content.replace(b"0.01", b"9" * DEEP),
    "a byte order mark": lambda draw, content: b"\xef\xbb\xbf" + content,
    "not UTF-8": lambda draw, content: content.replace(b"tiny", b"t\xefny"),
    "no table": lambda draw, content: b"train = 3\nsweep = []\n",
}


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


def picture_files(draw: random.Random) -> Mapping[str, Callable[[Path], object]]:
    """What may lie where a picture is meant: its name -> a function that puts it there."""
    from PIL import Image

    grey = Image.new("RGB", (9, 9), (200, 100, 50))

    def saved(picture: Any, kind: str, **options: Any) -> Callable[[Path], object]:
        return lambda path: picture.save(path, kind, **options)

    def damaged(how: str, kind: str) -> Callable[[Path], object]:
        def put(path: Path) -> None:
            draw_noise(draw).save(path, kind)
            path.write_bytes(BYTES[how](draw, path.read_bytes()))

        return put

    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        **{
            f"{kind}, {how}": damaged(how, kind)
            for kind in ("PNG", "JPEG", "BMP", "GIF")
            for how in BYTES
        },
        "one pixel": saved(Image.new("RGB", (1, 1)), "PNG"),
        "a line of pixels": saved(Image.new("RGB", (20000, 1)), "PNG"),
        "a bomb": saved(Image.new("1", (20000, 20000)), "PNG"),
        "turned by EXIF": saved(grey, "JPEG", exif=rotated),
        "PostScript": lambda path: path.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
        ),
        "TIFF of floats": saved(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"),
        "WebP": saved(grey, "WEBP"),
        "a folder": lambda path: path.mkdir(),
        "a named pipe": lambda path: os.mkfifo(path),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
        "a device": lambda path: path.symlink_to("/dev/zero"),
    }


def draw_noise(draw: random.Random) -> Any:
    """A picture of noise, `(9, 9)` RGB."""
    from PIL import Image

    return Image.frombytes("RGB", (9, 9), draw.randbytes(243))


def levels() -> Mapping[str, tuple[Any, str]]:
    """Pictures that are 128 of 255 everywhere, in modes that have other numbers for it."""
    from PIL import Image

    half = np.full((9, 9), 128)
    return {
        "16-bit grey": (Image.fromarray((half * 257).astype(np.uint16)), "PNG"),
        "32-bit grey": (Image.fromarray((half * 257).astype(np.int32)), "TIFF"),
        "grey": (Image.fromarray(half.astype(np.uint8)), "PNG"),
        "grey with alpha": (Image.new("LA", (9, 9), (128, 255)), "PNG"),
        "palette": (Image.new("RGB", (9, 9), (128, 128, 128)).quantize(4), "PNG"),
        "CMYK": (Image.new("CMYK", (9, 9), (127, 127, 127, 0)), "JPEG"),
    }


def make_pictures(draw: random.Random, folder: Path) -> Case:
    """A folder of pictures with something in it that is none, or that is easily misread."""
    (folder / "tiny.toml").write_text(RECIPE)
    arguments = ["teach", "tiny.toml", "--local", "--runs", "runs", "--set", "data.fraction=1.0"]
    sets = {
        "data.name": "imagefolder",
        "data.root": "pictures",
        "data.image_size": 8,
        "teacher.train.epochs": 1,
    }
    arguments += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    root = folder / "pictures"
    classes = [root / name for name in ("cat", "dog", "owl")]
    for number, place in itertools.product(range(5), classes):
        place.mkdir(parents=True, exist_ok=True)
        draw_noise(draw).save(place / f"{number}.png")
    victim = (
        draw.choice(classes)
        / f"{draw.randrange(6)}{draw.choice(['.png', '.jpg', '.PNG', '.tif', '.webp'])}"
    )
    victim.unlink(missing_ok=True)
    if draw.random() < 0.25:
        how = draw.choice(sorted(FOLDERS))
        FOLDERS[how](root)
        told = "one class was taught" if how == "one class" else ""
        return Case("pictures", how, arguments, lambda: told)
    if draw.random() < 0.3:
        how, (picture, kind) = draw.choice(sorted(levels().items(), key=lambda item: item[0]))
        picture.save(victim, kind)
        return Case("pictures", f"{victim.name}: {how}", arguments, lambda: misread(victim))
    how, put = draw.choice(list(picture_files(draw).items()))
    put(victim)
    return Case("pictures", f"{victim.name}: {how}", arguments)


def misread(path: Path) -> str:
    """What is wrong with how a picture of `levels` is read."""
    from kd_ray.datasets.imagefolder import read_picture

    found = read_picture(path, 8)
    wrong = np.abs(found.astype(int) - 128).max() > 3
    return f"128 was read as {found[0, 0].tolist()}" if wrong else ""


def only_one_class(root: Path) -> None:
    for name in ("dog", "owl"):
        shutil.rmtree(root / name)


FOLDERS: Mapping[str, Callable[[Path], object]] = {
    "one class": only_one_class,
    "an empty class": lambda root: (root / "ant").mkdir(),
    "a class of one picture": lambda root: [
        file.unlink() for file in sorted(root.glob("cat/*"))[1:]
    ],
    "no classes": lambda root: shutil.rmtree(root),
    "train without test": lambda root: (root / "cat").rename(root / "train"),
    "a class that is not UTF-8": lambda root: os.rename(
        root / "cat", os.fsencode(root) + b"/c\xe9t"
    ),
    "a picture that is not UTF-8": lambda root: os.rename(
        next((root / "cat").iterdir()), os.fsencode(root) + b"/cat/\xff.png"
    ),
    "a class with a line break": lambda root: (root / "cat").rename(root / "c\nat"),
    "a class that is a file": lambda root: (root / "ant").write_text("x"),
    "a class that links to itself": lambda root: (root / "ant").symlink_to(root / "ant"),
    "a class that links to its parent": lambda root: (root / "ant").symlink_to(root),
    "a class of a long name": lambda root: (root / "cat").rename(root / ("c" * 255)),
}
"""Damage to a folder of pictures."""

SHAPES: tuple[Any, ...] = (
    *([], {}, None, 0, "x", {"status": "finished"}, {"kind": "teacher"}, [[[]]], {"x": {}}),
)


def other_shape(draw: random.Random, content: bytes) -> bytes:
    """JSON of which one value is another, or missing; or other JSON."""
    table = json.loads(content)
    if not isinstance(table, dict) or draw.random() < 0.2:
        return json.dumps(draw.choice(SHAPES)).encode()
    *above, last = draw.choice(sorted(keys(table)))
    inner = reduce(getitem, above, table)
    del inner[last]
    if draw.random() < 0.6:
        inner[last] = draw.choice([*SHAPES, *NASTY])
    return json.dumps(table).encode()


PLACES: Mapping[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a named pipe": lambda path: os.mkfifo(path),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
"""What may lie in a file's place."""

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
    absent = how in ("empty", "missing", "a folder") and command.startswith("run ")
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
