r"""A plot of one of kd-ray's pages as an SVG file that stands alone, such as the one in the README.

    uv run kd-ray exercises quickstart
    uv run python tests/benchmarks/readme_picture.py runs/quickstart/exercises.html \
        "Test accuracy over T" kd_ray/studies/quickstart.svg

Any other plot will do, such as "Test errors" of a run's report.html.
"""

import re
import sys
from pathlib import Path

from kd_ray.report.picture import stand_alone


def plot_of(page: str, title: str) -> str:
    """The `<svg>` element of a page that is labelled with a title."""
    plots = re.findall(r'<svg role="img" aria-label="([^"]*)".*?</svg>', page, flags=re.DOTALL)
    if title not in plots:
        raise SystemExit(f"a title must be one of {plots}, but got {title!r}")
    start = page.index(f'<svg role="img" aria-label="{title}"')
    return page[start : page.index("</svg>", start)] + "</svg>\n"


def main(page: str, title: str, file: str) -> None:
    """Writes the picture."""
    text = Path(page).read_text(encoding="utf-8")
    Path(file).write_text(stand_alone(plot_of(text, title)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
