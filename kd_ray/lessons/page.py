"""A lesson as it is shipped: Markdown beside this module, and the same as one HTML file."""

import re
from pathlib import Path

from markupsafe import Markup

from kd_ray.catalog import pick
from kd_ray.files import to_path
from kd_ray.lessons.figures import plot, read_figures
from kd_ray.lessons.plan import LESSONS
from kd_ray.report.html import rendered, write_page

HOME = Path(__file__).parent
"""Of each lesson's `.md`, and of the `.csv` and `.svg` that were measured for it."""
PICTURE = re.compile(r'<p><img src="[\w-]+\.svg"[^>]*></p>')


def lesson_page(name: str) -> str:
    """A lesson as an HTML page that needs no other file; its plot is drawn from its table.

    Raises:
        UnknownNameError: there is no such lesson.
    """
    from markdown_it import MarkdownIt

    lesson = pick("lesson", LESSONS, name)
    text = (HOME / f"{name}.md").read_text(encoding="utf-8")
    drawn = f'<figure class="wide">{plot(lesson, read_figures(HOME / f"{name}.csv"))}</figure>'
    body = PICTURE.sub(lambda _: drawn, MarkdownIt().enable("table").render(text))
    return rendered("lesson", title=lesson.title, body=Markup(body))


def write_lesson(name: str, folder: str | Path) -> Path:
    """Writes a lesson's page into a folder and returns its path.

    Raises:
        UnknownNameError: there is no such lesson.
        StorageError: the file cannot be written.
    """
    return write_page(to_path(folder) / f"{name}.html", lesson_page(name))
