"""What the documentation says is so: its links lead somewhere, its commands and recipes are read.

Nothing is run but the script that draws the README's picture. Commands go through the parsers of
the command line, recipes through the schema, Python through the compiler.
"""

import ast
import importlib
import re
import runpy
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tomli_w
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tiny import tiny_recipe
from typer.core import TyperGroup
from typer.main import get_command

import kd_ray
from kd_ray.cli import app
from kd_ray.config import Recipe, recipe_names, recipe_text
from kd_ray.pipeline import open_recipe, run
from kd_ray.report.page import write_report
from tuning.driver import check_sweep

ROOT = Path(kd_ray.__file__).parent.parent
PACKAGES = ("kd_ray", "tuning", "cluster")
README = ROOT / "README.md"
LONGEST_README = 180
DOCUMENTS = [README, *sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.md"))]
SHELL, OUTPUT = {"", "bash", "sh"}, {"text"}
OUR_PATH = re.compile(r"(?<![\w./:-])(?:kd_ray|tuning|cluster|tests)/[\w./-]*")
RUN_ELSEWHERE = ROOT / "kd_ray" / "models" / "README.md"
"""Whose recipes name files, and are run with such by `tests/models/test_models_guide.py`."""

STAND_IN, BASE = "quickstart", "svhn-q3"
"""The recipe that RECIPE stands for, and the one that tables of a recipe are tried in."""

Place = tuple[Path, int, str]


def each(what: str, places: Iterator[Place]) -> pytest.MarkDecorator:
    """A test for each place of the documents, named by file and line."""
    cases = [
        pytest.param(path, content, id=f"{path.relative_to(ROOT)}:{line}")
        for path, line, content in places
    ]
    return pytest.mark.parametrize(("path", what), cases)


documents = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def tokens(path: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))


def inline_tokens(path: Path, *kinds: str) -> Iterator[tuple[int, Token]]:
    """Links, pictures and code within lines, with the number of their line."""
    line = 0
    for block in tokens(path):
        line = block.map[0] + 1 if block.map else line
        for token in block.children or []:
            if token.type in kinds:
                yield line, token


def fences(*languages: str) -> Iterator[Place]:
    """Blocks of code: document, line and content."""
    for path in DOCUMENTS:
        for token in tokens(path):
            if token.type == "fence" and token.info in languages:
                yield path, token.map[0] + 1, token.content


def links() -> Iterator[Place]:
    for path in DOCUMENTS:
        for line, token in inline_tokens(path, "link_open", "image"):
            target = token.attrs.get("href") or token.attrs["src"]
            if not re.match(r"\w+:", str(target)):
                yield path, line, str(target)


def commands_in(text: str) -> Iterator[str]:
    """The kd-ray commands of a shell block, without comments, a continued line as one.

    >>> list(commands_in("pip install uv && uv run kd-ray quickstart  # a minute"))
    ['quickstart']
    """
    for line in text.replace("\\\n", " ").splitlines():
        if "kd-ray " not in line:
            continue
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            if command[:2] == ["uv", "run"]:
                command = command[2:]
            if command[:1] == ["kd-ray"]:
                yield shlex.join(command[1:])


def shown_commands() -> Iterator[Place]:
    for path, line, text in fences(*SHELL):
        for command in commands_in(text):
            yield path, line, command


def mentioned_commands() -> Iterator[Place]:
    """Commands within sentences, where the arguments may be left out."""
    for path in DOCUMENTS:
        for line, token in inline_tokens(path, "code_inline"):
            if token.content.startswith("kd-ray "):
                yield path, line, token.content.removeprefix("kd-ray ")


def leaf_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the arguments behind its name."""
    command: Any = get_command(app)
    rest = list(words)
    while isinstance(command, TyperGroup):
        assert rest, f"one of {sorted(command.commands)} is missing"
        assert rest[0] in command.commands, f"{rest[0]!r} is none of {sorted(command.commands)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_command(words: list[str]) -> None:
    """Parses a command as the executable would, and opens the shipped recipe that it names."""
    leaf, arguments = leaf_of(words)
    params = leaf.make_context("kd-ray", arguments).params
    if "command" in params and isinstance(params["command"], tuple | list):  # of `cluster submit`
        check_command(list(params["command"]))
    recipe = params.get("recipe")
    if recipe == "RECIPE":
        recipe = STAND_IN
    if recipe is not None:
        assert recipe in recipe_names() or recipe.endswith(".toml")
    if recipe in recipe_names():
        open_recipe(recipe, [*(params.get("overrides") or []), "train.compile=false"])


def slugs(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    blocks = tokens(path)
    for opening, heading in pairwise(blocks):
        if opening.type == "heading_open":
            text = "".join(token.content for token in heading.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def merged(table: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One table with the keys of another in it; a named entry is replaced as a whole."""
    joined = dict(table)
    for key, value in other.items():
        old = table.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "name" not in value:
            value = merged(old, value)
        joined[key] = value
    return joined


def test_documents_of_the_packages_are_there():
    places = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert places >= {"README.md", "tuning/README.md", "cluster/README.md"}
    assert len(list(links())) > 10
    assert len(list(shown_commands())) > 30


def test_readme_can_be_read_in_ten_minutes():
    assert README.read_text(encoding="utf-8").count("\n") <= LONGEST_README


@each("target", links())
def test_link_leads_to_a_file_and_to_one_of_its_headings(path: Path, target: str):
    file, _, anchor = target.partition("#")
    there = (path.parent / file).resolve() if file else path
    assert there.exists()
    assert there.is_relative_to(ROOT)
    if anchor:
        assert anchor in slugs(there)


@documents
def test_every_path_of_this_repository_that_a_document_names_is_there(path: Path):
    named = OUR_PATH.findall(path.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    assert not missing


@documents
def test_every_block_of_code_is_in_a_language_that_is_checked(path: Path):
    known = {*SHELL, *OUTPUT, "toml", "python"}
    assert {token.info for token in tokens(path) if token.type == "fence"} <= known


@each("command", shown_commands())
def test_command_is_one_that_the_command_line_reads(path: Path, command: str):
    check_command(shlex.split(command))


@each("command", mentioned_commands())
def test_command_within_a_sentence_exists(path: Path, command: str):
    words = shlex.split(command)
    leaf, arguments = leaf_of(words) if len(words) > 1 else (None, [])
    if arguments:
        check_command(words)
    elif leaf is None:
        assert words[0] in get_command(app).commands  # type: ignore[attr-defined]


@each("text", (place for place in fences("toml") if place[0] != RUN_ELSEWHERE))
def test_recipe_is_read_and_a_part_of_one_fits_into_another(path: Path, text: str, tmp_path: Path):
    table = tomllib.loads(text)
    assert set(table) <= set(Recipe.model_fields)
    whole = {"name", "data", "student"} <= set(table)
    file = tmp_path / "recipe.toml"
    if not whole:
        table = merged(tomllib.loads(recipe_text(BASE)[1]), table)
    file.write_text(tomli_w.dumps(table), encoding="utf-8")
    for document, _, code in fences("python"):
        name = re.match(r"# (\w+\.py)", code)  # a module of one's own, beside the recipe
        if document == path and name:
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
    recipe = open_recipe(file, [] if whole else ["data.validation=100"])
    if recipe.sweep is not None:
        check_sweep(recipe)


@each("text", fences("python"))
def test_python_compiles_and_what_it_imports_from_here_is_there(path: Path, text: str):
    compile(text, str(path), "exec")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_pictures_of_the_documents_have_their_own_colours_for_light_and_dark():
    pictures = [path.parent / link for path, _, link in links() if link.endswith(".svg")]
    assert {path.name for path in pictures} >= {"quickstart.svg", "exported.svg"}
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text
        assert "prefers-color-scheme: dark" in text


def test_script_of_the_picture_draws_from_the_report_of_a_run(tmp_path: Path):
    folder = run(tiny_recipe(), runs=tmp_path, local=True).folder
    page = write_report(folder)
    script = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "readme_picture.py"))
    script["main"](str(page), "Test errors", str(tmp_path / "picture.svg"))
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "var(--" not in text
    assert "student distilled" in text
