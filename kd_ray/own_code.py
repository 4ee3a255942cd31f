"""A user's own code: functions that a recipe names by a dotted path, such as `my_nets:tiny`.

It runs only where somebody has said so, by opening a recipe that names it or with `--code`: what a
checkpoint, a manifest or a sweep that was sent names is no permission.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_ray.errors import ConfigError, KdRayError, shown

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
SOURCES = ("{}.py", "{}/__init__.py")
"""What a module is, beside a recipe."""

INSTALLED = {"site-packages", "dist-packages", Path(re.__file__).parents[1].name}
"""Folders of what is installed, and of Python itself."""

_allowed: dict[str, Path | None] = {}
"""First name of each module that may be imported -> the folder where it is looked for first."""
HERE = "object"
_objects: dict[str, Any] = {}
"""Objects of this process that have a dotted path, so that a recipe can name them."""


def is_dotted(name: Any) -> bool:
    """Whether a name is that of a user's own function or class: `module:name`.

    >>> is_dotted("my_nets:tiny"), is_dotted("nets.small:Tiny"), is_dotted("resnet20")
    (True, True, False)
    """
    return isinstance(name, str) and DOTTED.fullmatch(name) is not None


def allow(names: Iterable[str], folder: str | Path | None = None) -> None:
    """Lets this process import the modules of dotted paths.

    Args:
        names: such as `my_nets:tiny`, or names of modules.
        folder: where they are looked for first; None for Python's path alone.
    """
    home = Path(folder).absolute() if folder else None
    for name in (name for name in names if name not in _objects):
        # One that was found before is not given up for a folder that has none of this name.
        if first_name(name) not in _allowed or source_of(name, home):
            _allowed[first_name(name)] = home


def offer(name: str, value: Any) -> str:
    """Gives an object of this process a dotted path, which holds in this process alone."""
    _objects[path := f"{HERE}:{name}"] = value
    return path


def is_allowed(name: str) -> bool:
    """Whether this process may import the module of a dotted path."""
    return name in _objects or first_name(name) in _allowed


def fingerprints(names: Iterable[Any]) -> dict[str, str]:
    """What own code an artefact is made with: "code MODULE" -> sha256, of dotted names alone.

    Blank lines and lines of comments do not count. What is installed has a version instead.
    """
    found = {}
    dotted = [name for name in names if is_dotted(name) and name not in _objects]
    for first in sorted(set(map(first_name, dotted))):
        source = source_of(first, _allowed.get(first)) or _on_path(first)
        if source is not None:
            files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
            lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
            told = [line.rstrip() for line in lines if line.strip()[:1] not in ("", "#")]
            found[f"code {first}"] = hashlib.sha256("\n".join(told).encode()).hexdigest()
    return found


def sources() -> list[Path]:
    """Files and package folders of all code that may be imported here, to send to other machines.

    What is installed is left out: other machines have it as they have this project's libraries.
    """
    found = [source_of(name, folder) or _on_path(name) for name, folder in _allowed.items()]
    return [source for source in found if source is not None]


def _on_path(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    file = Path(spec.origin) if spec and spec.origin else Path()
    if file.suffix != ".py" or set(file.parts) & INSTALLED:
        return None
    return file.parent if file.name == "__init__.py" else file


def allow_file(text: str) -> None:
    """Lets this process import a module that is named as `--code` is: a file, or a module's name.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        allow([path.stem], path.absolute().parent)
    elif re.fullmatch(r"[\w.]+", text) and path.suffix != ".py":
        allow([text], Path.cwd())
    else:
        raise ConfigError(
            f"--code {shown(text)}: must be a Python file that is there, or a module's name"
        )


def refusal(name: str) -> str:
    """The sentence about code that nobody has allowed."""
    if first_name(name) == HERE:
        return f"{shown(name)}: was an object of the process that made this; load it there"
    return (
        f"{shown(name)}: is somebody's own code, which a file cannot ask for by itself; if it is "
        f"yours, add --code {first_name(name)}.py"
    )


def first_name(name: str) -> str:
    """The part of a dotted path, or of a module's name, that is a file or a folder.

    >>> first_name("nets.small:Tiny")
    'nets'
    """
    return name.partition(":")[0].partition(".")[0]


def source_of(name: str, folder: Path | None) -> Path | None:
    """The file or package folder beside a recipe that a dotted path starts in, if it is there."""
    for pattern in SOURCES if folder else ():
        assert folder is not None
        path = folder / pattern.format(first_name(name))
        if path.is_file():
            return path.parent if path.name == "__init__.py" else path
    return None


def imported(name: str) -> Any:
    """What a dotted path names.

    Raises:
        ConfigError: nobody has allowed it, or it cannot be imported; with the file and the line.
    """
    if name in _objects:
        return _objects[name]
    module_name, _, attribute = name.partition(":")
    first = first_name(name)
    if not is_allowed(name):
        raise ConfigError(refusal(name))
    folder = _allowed[first]
    source = source_of(name, folder)
    with explained(name):
        try:
            found = _module(module_name, first, source)
        except ModuleNotFoundError as error:
            # Otherwise it is a module that own code imports, which is told with its file and line.
            if error.name and f"{module_name}.".startswith(f"{error.name}."):
                beside = f"beside the recipe, in {folder}, or " if folder else ""
                raise ConfigError(
                    f"{name}: its module must lie {beside}on Python's path, but there is no "
                    f"{error.name}; correct the name, or move the file there"
                ) from error
            raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(
                f"{name}: {getattr(found, '__file__', None) or module_name} must define "
                f"{attribute}, but does not; correct the name"
            )
        found = getattr(found, part)
    return found


def _module(name: str, first: str, source: Path | None) -> Any:
    """The module, from beside the recipe if it is there, else from Python's path."""
    if source is None:
        return importlib.import_module(name)
    folder, there = str(source.parent), sys.modules.get(first)
    if there is not None and not _lies_at(there, source):
        if not getattr(there, "__kd_ray_own__", False):
            raise ConfigError(
                f"{source}: its name is taken by {getattr(there, '__file__', None) or first}, "
                "which is loaded already; rename it"
            )
        # Of a recipe that was opened before in this process, in another folder.
        for loaded in [each for each in sys.modules if each.partition(".")[0] == first]:
            del sys.modules[loaded]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
        vars(sys.modules[first])["__kd_ray_own__"] = True
    finally:
        # What it imports later is still found, but nothing of Python's is hidden by its neighbours.
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    return module


def _lies_at(module: Any, source: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() in (
        source.resolve(),
        (source / "__init__.py").resolve(),
    )


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns whatever own code raises into one sentence that names its file and line.

    Raises:
        ConfigError: in place of any error but the project's own.
    """
    try:
        yield
    except KdRayError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        reason = f"{type(error).__name__}{': ' * bool(text)}{text[:300]}"
        raise ConfigError(f"{name}: {_place(error, name)}{reason}; mend it there") from error


def _place(error: BaseException, name: str) -> str:
    """Where in own code an error came from: the innermost line that is no library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: "
    first = first_name(name)
    source = source_of(name, _allowed.get(first)) or _on_path(first)
    home = str(source.parent) if source else None
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if home and f.filename.startswith(home) and "site-packages" not in f.filename
    ]
    frame = (own or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}: "
