"""Imports point strictly down the floors of the design; what is slow or optional stays lazy."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import kd_ray

ROOT = Path(kd_ray.__file__).parent.parent
FLOORS = [
    {"errors"},
    {"catalog", "batch", "files"},
    {"config"},  # offers near names, as the catalogues do
    {
        *("losses", "metrics", "bias", "schedule", "optimizer", "quant", "models", "datasets"),
        *("transfer_set", "checkpoint", "workers", "variants", "progress"),
    },
    {"loop", "feed", "online", "saved_model"},
    {"teacher", "labelling", "student", "ensemble", "specialists"},
    {"stages", "report", "export"},
    {"on_ray"},
    {"pipeline", "artefacts"},
    {"reproduce"},
    {"tuning"},
    {"cluster"},
    {"cli"},
    {"__main__", "__init__"},  # __init__ hands out names of all floors, lazily
]
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
RAY_UNITS = {"on_ray", "tuning", "cluster"}
LAZY = {"ray", "torchvision", "sklearn", "matplotlib", "scipy", "optuna"}
LONGEST = 320

MODULES = sorted(
    path for package in ("kd_ray", "tuning", "cluster") for path in (ROOT / package).rglob("*.py")
)
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]
modules = pytest.mark.parametrize("path", MODULES, ids=NAMES)


def unit_of(parts: tuple[str, ...]) -> str:
    """The unit of a module given by its dotted path: what lies on a floor as one."""
    if parts[0] != "kd_ray":
        return parts[0]
    return parts[1] if len(parts) > 1 else "__init__"


def unit_at(path: Path) -> str:
    return unit_of(path.relative_to(ROOT).with_suffix("").parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[tuple[str, ...]]:
    """Dotted paths of everything that is imported, `from a import b` as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield (*(node.module or "").split("."), alias.name)


def own_units(path: Path) -> set[str]:
    """Units of this repository that a module imports anywhere, even inside functions."""
    ours = ("kd_ray", "tuning", "cluster")
    return {unit_of(parts) for parts in imports(ast.walk(tree(path))) if parts[0] in ours}


def test_the_walk_sees_the_imports_that_are_there():
    assert len(MODULES) > 40
    assert own_units(ROOT / "kd_ray" / "loop.py") >= {"batch", "config", "losses", "workers"}
    assert own_units(ROOT / "kd_ray" / "cli" / "__init__.py") >= {"artefacts", "pipeline"}


@modules
def test_every_module_lies_on_a_floor_and_imports_only_from_below(path: Path):
    unit = unit_at(path)
    assert unit in FLOOR_OF, f"{unit} is on no floor"
    if unit == "__init__":
        return
    for used in own_units(path) - {unit}:
        assert used in FLOOR_OF, f"{used} is on no floor"
        assert FLOOR_OF[used] < FLOOR_OF[unit], f"{unit} must not import {used}"


@modules
def test_ray_is_imported_on_its_own_floors_only(path: Path):
    found = {parts[0] for parts in imports(ast.walk(tree(path)))}
    assert "ray" not in found or unit_at(path) in RAY_UNITS


@modules
def test_the_lower_floors_know_no_command_line(path: Path):
    found = {parts[0] for parts in imports(ast.walk(tree(path)))}
    if FLOOR_OF[unit_at(path)] <= FLOOR_OF["stages"]:
        assert not found & {"typer", "click", "rich"}


@modules
def test_packages_that_are_slow_to_import_are_imported_where_they_are_used(path: Path):
    found = {parts[0] for parts in imports(tree(path).body)}
    assert not found & LAZY


@modules
def test_every_module_is_short_and_says_what_it_is(path: Path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST
    assert ast.get_docstring(tree(path))


@modules
def test_no_module_is_a_drawer_for_odds_and_ends(path: Path):
    assert path.stem not in {"utils", "util", "common", "helpers", "misc", "base"}


PROBE = """
import sys
{code}
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def imported_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running `code`."""
    answer = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_neither_torch_nor_ray(arguments: list[str]):
    loaded = imported_by(
        f"sys.argv = ['kd-ray', *{arguments}]\n"
        "from kd_ray.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
    )
    assert "typer" in loaded
    assert not loaded & {"torch", "ray", "numpy", "pyarrow"}


def test_import_kd_ray_imports_neither_torch_nor_ray():
    loaded = imported_by("import kd_ray")
    assert "kd_ray" in loaded
    assert not loaded & {"torch", "ray", "numpy", "pydantic"}


def test_running_without_ray_imports_no_ray():
    loaded = imported_by("import kd_ray\nkd_ray.run, kd_ray.open_recipe, kd_ray.load_model")
    assert "torch" in loaded
    assert not loaded & LAZY


@pytest.mark.parametrize("name", kd_ray.__all__)
def test_every_name_of_the_python_interface_is_there(name: str):
    assert getattr(kd_ray, name).__doc__


def test_an_unknown_name_of_the_python_interface_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        kd_ray.distil  # noqa: B018
