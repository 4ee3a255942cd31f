"""Laws of own code: who may ask for it, where it is found, how its mistakes are told."""

import sys
from pathlib import Path

import pytest

from kd_ray import own_code
from kd_ray.errors import ConfigError
from kd_ray.own_code import allow, allow_file, fingerprints, imported, is_dotted, sources

pytestmark = pytest.mark.usefixtures("no_own_code")


def written(folder: Path, text: str, name: str = "own_nets.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["os.system", "os:system()", ":f", "a:", "a b:c", "../x:y", 3])
def test_only_a_module_and_a_name_with_a_colon_between_are_a_dotted_path(name: object) -> None:
    assert not is_dotted(name)


def test_code_that_nobody_allowed_is_not_even_imported(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    written(tmp_path, f"open({str(mark)!r}, 'w')\nf = 1")
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(ConfigError, match=r"own_nets:f.*cannot ask for.*--code own_nets\.py"):
        imported("own_nets:f")
    assert not mark.exists()


def test_a_module_of_python_itself_needs_permission_too() -> None:
    with pytest.raises(ConfigError, match="cannot ask for"):
        imported("os:system")


def test_a_module_beside_the_recipe_comes_before_one_on_the_path(tmp_path: Path) -> None:
    written(tmp_path / "near", "f = 'near'")
    written(tmp_path / "far", "f = 'far'")
    sys.path.insert(0, str(tmp_path / "far"))
    allow(["own_nets:f"], tmp_path / "near")
    assert imported("own_nets:f") == "near"
    del sys.modules["own_nets"]
    own_code._allowed.clear()
    allow(["own_nets:f"], tmp_path)
    assert imported("own_nets:f") == "far"


def test_two_recipes_with_modules_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        written(tmp_path / name, f"f = {name!r}")
        allow(["own_nets:f"], tmp_path / name)
        assert imported("own_nets:f") == name


def test_packages_and_inner_names_are_found(tmp_path: Path) -> None:
    written(tmp_path / "own_package", "", "__init__.py")
    written(tmp_path / "own_package", "class A:\n    b = 7", "inner.py")
    allow(["own_package.inner:A.b"], tmp_path)
    assert imported("own_package.inner:A.b") == 7


def test_a_name_that_a_loaded_library_has_is_refused_rather_than_mixed_up(tmp_path: Path) -> None:
    file = written(tmp_path, "f = 1", "json.py")
    allow(["json:f"], tmp_path)
    with pytest.raises(ConfigError, match=rf"{file}.*taken by .*json.*rename it"):
        imported("json:f")
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nraise RuntimeError('no\\nluck')", r"line 2: RuntimeError: no luck"),
        ("import sys\nsys.exit('bye')", r"line 2: SystemExit: bye"),
        ("def f(:\n  pass", r"own_nets\.py, line 1: SyntaxError"),
        ("import nowhere_at_all", r"line 1: ModuleNotFoundError"),
        ("g = 1", r"own_nets\.py must define f, but does not"),
    ],
)
def test_a_mistake_in_it_is_one_sentence_with_file_and_line(
    tmp_path: Path, text: str, told: str
) -> None:
    written(tmp_path, text)
    allow(["own_nets:f"], tmp_path)
    with pytest.raises(ConfigError, match=told) as caught:
        imported("own_nets:f")
    assert "\n" not in str(caught.value)


def test_a_module_that_is_nowhere_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets/__init__.py").write_text("")
    allow(["own_nets:f", "nowhere_at_all:f"], tmp_path)
    for name, missing in (("nowhere_at_all", "nowhere_at_all"), ("own_nets.small",) * 2):
        with pytest.raises(ConfigError, match=f"there is no {missing}; correct the name") as caught:
            imported(f"{name}:f")
        assert f"beside the recipe, in {tmp_path}, or on Python's path" in str(caught.value)


def test_an_option_names_a_file_or_a_module(tmp_path: Path) -> None:
    allow_file(str(written(tmp_path, "f = 3")))
    assert imported("own_nets:f") == 3
    for wrong in ("no_such.py", "a;b", "../x"):
        with pytest.raises(ConfigError, match="--code"):
            allow_file(wrong)


def test_fingerprints_are_of_the_code_and_not_of_its_comments(tmp_path: Path) -> None:
    written(tmp_path, "# one\n\nf = 1  \n")
    allow(["own_nets:f"], tmp_path)
    first = fingerprints(["own_nets:f", "mlp", None, "os:path"])
    assert list(first) == ["code own_nets"]  # what Python has is told by its version
    written(tmp_path, "f = 1\n  # two\n")
    assert fingerprints(["own_nets:f"]) == first
    written(tmp_path, "f = 2\n")
    assert fingerprints(["own_nets:f"]) != first


def test_what_travels_is_named_code_alone(tmp_path: Path) -> None:
    file = written(tmp_path, "f = 1")
    written(tmp_path, "secret = 1", "neighbour.py")
    package = written(tmp_path / "own_package", "", "__init__.py").parent
    allow(["own_nets:f", "own_package.inner:g", "json:loads", "torch:nn"], tmp_path)
    assert sources() == [file, package]
