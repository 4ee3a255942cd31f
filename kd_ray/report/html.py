"""Pages as HTML: Jinja2 templates that lie beside this module and escape every text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_ray.files import committed_file
from kd_ray.units import bytes_shown, count_shown

if TYPE_CHECKING:
    from jinja2 import Environment

Rows = Sequence[Mapping[str, str]]
"""Lines of a table: heading -> text, the same headings in every line."""


@dataclass(frozen=True)
class Section:
    """One question of a study, and its answer.

    Attributes:
        title: above it; "" for a study of a single question.
        about: paragraphs on what is compared.
        plot: an `<svg>` element, or "".
        rows: lines of its table; none where it is unfinished.
    """

    title: str
    about: Sequence[str] = ()
    plot: str = ""
    rows: Rows = ()


def rendered(template: str, **values: Any) -> str:
    """A filled template; a value that it names and does not get is an error.

    Args:
        template: name of a file in `templates`, without its ending.
        values: texts, and objects that the template asks for theirs. All are escaped but plots,
            which `kd_ray.report.plots` marks as HTML.
    """
    return _environment().get_template(f"{template}.html.j2").render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kd_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes_shown=bytes_shown, count_shown=count_shown)
    return environment


def write_page(path: Path, page: str) -> Path:
    """Writes a page and returns its path.

    Raises:
        StorageError: the file cannot be written.
    """
    with committed_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path
