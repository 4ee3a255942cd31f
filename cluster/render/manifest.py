"""Manifests as Jinja2 templates, whose holes are filled with text that nothing can misread."""

import re
import shlex
from typing import Any

import yaml

from cluster.render.shape import Shape
from cluster.render.workload import Workload
from kd_ray.report.html import templates
from kd_ray.versions import versions

LONGEST_LINE = 10_000  # a command that is folded is hard to read, and to change


def manifest(template: str, workload: Workload, shape: Shape, **values: Any) -> str:
    """A filled template of `templates`; a value that it names and does not get is an error.

    It gets the versions, which every node must have. Text goes in by the filters yaml and shell.
    """
    # In bash ${#name} is a length, so comments of templates begin otherwise.
    comments = {"comment_start_string": "{##", "comment_end_string": "##}"}
    environment = templates("cluster.render", keep_trailing_newline=True, **comments)
    environment.filters.update(yaml=yaml_text, shell=shlex.quote)
    known = {"versions": versions(), "workload": workload, "shape": shape}
    return environment.get_template(f"{template}.j2").render(known, **values)


def yaml_text(text: str, indent: int = 0) -> str:
    r"""Text as a quoted scalar of YAML, or as a block if it has several lines.

    Readers of YAML 1.1 and 1.2 disagree on bare `y`, `1e3` and the like.

    >>> print(yaml_text("it's"), yaml_text("1e3"), yaml_text("a: b\n", indent=2))
    'it''s' '1e3' |
        a: b

    Args:
        text: to write.
        indent: column of the key or the dash that the text belongs to.
    """
    lines = text.split("\n")
    style = '"' if not all(map(str.isprintable, lines)) else "|" if len(lines) > 1 else "'"
    written = yaml.safe_dump(text, default_style=style, width=LONGEST_LINE, allow_unicode=True)
    return re.sub(r"\n(?!\n)", "\n" + " " * indent, written.removesuffix("\n"))
