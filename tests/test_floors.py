"""The plan of the house as it is: imports point strictly down, and what is slow stays lazy."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kd_ray

ROOT = Path(kd_ray.__file__).parent.parent
FLOORS = [
    {"batch", "errors", "machine", "units", "versions"},
    {"catalog", "deployed", "files", "own_code"},
    {"config", "result"},
    {"models", "transfer_set"},
    {"quant", "datasets"},
    {"training"},
    {"export", "specialists"},
    {"runs"},
    {"artefacts", "on_ray", "report", "tracking"},
    {"pipeline"},
    {"tuning", "cluster"},
    {"studies"},
    {"lessons"},
    {"cli"},
    {"objects"},
    {"__main__", "__init__"},  # __init__ hands out names of all floors, lazily
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
RAY_ROOMS = {"on_ray", "tuning", "cluster"}
LAZY = {"ray", "torchvision", "sklearn", "matplotlib", "scipy", "optuna", "jinja2"}
LAZY |= {"tensorboard", "mlflow", "wandb", "trackio"}
LONGEST = 320
DRAWERS = {"utils", "util", "common", "helpers", "misc", "base"}
PACKAGES = ("kd_ray", "tuning", "cluster")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room of a module: what lies on a floor as one."""
    package, *rest = module.split(".")
    if package != "kd_ray":
        return package
    return rest[0] if rest else "__init__"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Dotted names of everything that is imported, `from a import b` as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Modules of this repository that a module imports anywhere, even inside functions."""
    names = [name for name in imports(ast.walk(tree(path))) if name.split(".")[0] in PACKAGES]
    # A name is a module, or something in the module that its longest prefix names.
    return {
        name if name in MODULES else name.rpartition(".")[0]
        for name in names
        if name in MODULES or name.rpartition(".")[0] in MODULES
    }


def top_level(path: Path, *, everywhere: bool) -> set[str]:
    """Packages that a module imports, when it is imported itself or at all."""
    nodes: Iterator[ast.AST] | list[ast.stmt]
    nodes = ast.walk(tree(path)) if everywhere else tree(path).body
    return {name.split(".")[0] for name in imports(nodes)}


def test_the_walk_sees_the_imports_that_are_there():
    assert len(MODULES) > 100
    assert "kd_ray.training.losses" in own_imports(MODULES["kd_ray.training.loop"])
    assert "kd_ray.cli.run" in own_imports(MODULES["kd_ray.cli"])  # inside a function
    assert {room_of(name) for name in MODULES} == set(FLOOR_OF)


def test_imports_point_strictly_down_from_room_to_room():
    up = [
        f"{module} (floor {FLOOR_OF[room_of(module)]}) imports {used}"
        for module, path in MODULES.items()
        for used in own_imports(path)
        if room_of(module) not in ("__init__", room_of(used))
        if FLOOR_OF[room_of(used)] >= FLOOR_OF[room_of(module)]
    ]
    assert not up


def test_no_room_has_a_circle_of_imports_inside_late_ones_included():
    # A package's face hands on names of its modules, so it stands above them.
    graph = {
        module: own_imports(path) - {module}
        for module, path in MODULES.items()
        if room_of(module) != "__init__"
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


def test_ray_is_imported_on_its_own_floors_only():
    users = {
        room_of(module)
        for module, path in MODULES.items()
        if "ray" in top_level(path, everywhere=True)
    }
    assert users <= RAY_ROOMS


def test_rooms_below_the_command_line_know_no_terminal():
    users = {
        room_of(module)
        for module, path in MODULES.items()
        if top_level(path, everywhere=True) & {"typer", "click", "rich"}
    }
    assert users == {"cli"}


def test_packages_that_are_slow_to_import_are_imported_where_they_are_used():
    eager = {m: top_level(path, everywhere=False) & LAZY for m, path in MODULES.items()}
    assert not {module: packages for module, packages in eager.items() if packages}


def test_every_module_is_short_says_what_it_is_and_is_no_drawer():
    for module, path in MODULES.items():
        assert path.read_text(encoding="utf-8").count("\n") <= LONGEST, module
        assert ast.get_docstring(tree(path)), module
        assert path.stem not in DRAWERS, module


def test_no_two_classes_have_one_name():
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


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


def test_asking_a_cluster_something_does_not_import_torch():
    loaded = imported_by("import cluster.jobs, cluster.local, cluster.server")
    assert "pydantic" in loaded
    assert not loaded & {"torch", "ray"}


def test_a_training_imports_neither_the_compiler_of_torch_nor_scikit_learn(tmp_path: Path):
    options = "local=True, runs='" + str(tmp_path) + "'"
    loaded = imported_by(
        "import kd_ray\nkd_ray.run(kd_ray.open_recipe('quickstart', ['teacher.train.epochs=1', "
        f"'train.epochs=1', 'train.seeds=[0]', 'student.baselines=[]']), {options})"
    )
    assert "torch" in loaded
    assert not loaded & {"sklearn", "sympy"}


def test_reader_of_packed_students_imports_neither_torch_nor_ray():
    loaded = imported_by("import kd_ray.deployed")
    assert "numpy" in loaded
    assert not loaded & {"torch", "ray", "safetensors", "pydantic"}


def test_running_without_ray_imports_no_ray():
    loaded = imported_by("import kd_ray\nkd_ray.run, kd_ray.open_recipe, kd_ray.load_model")
    assert "torch" in loaded
    assert not loaded & (LAZY - {"jinja2"})  # torch has it


def test_every_name_of_the_python_interface_is_there():
    for name in kd_ray.__all__:
        assert getattr(kd_ray, name).__doc__, name


def test_an_unknown_name_of_the_python_interface_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        kd_ray.distil  # noqa: B018
