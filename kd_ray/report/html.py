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
    """One question of a study, and its answer: paragraphs, an `<svg>` element, and a table.

    A study of a single question has no title, and what is unfinished no rows.
    """

    title: str
    about: Sequence[str] = ()
    plot: str = ""
    rows: Rows = ()


def rendered(template: str, **values: Any) -> str:
    """A filled template of `templates`; a value that it names and does not get is an error.

    Texts are escaped; plots are not, as `kd_ray.report.plots` marks them as HTML.
    """
    environment = templates("kd_ray.report", autoescape=True)
    environment.filters.update(bytes_shown=bytes_shown, count_shown=count_shown)
    return environment.get_template(f"{template}.html.j2").render(**values)


@cache
def templates(package: str, **options: Any) -> "Environment":
    """The templates of a package, read by Jinja2 with these options of its `Environment`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def write_page(path: Path, page: str) -> Path:
    """Writes a page and returns its path.

    Raises:
        StorageError: the file cannot be written.
    """
    with committed_file(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path
