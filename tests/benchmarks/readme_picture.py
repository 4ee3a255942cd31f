r"""A plot of one of kd-ray's pages as an SVG file that stands alone, such as the one in the README.

    uv run kd-ray exercises quickstart
    uv run python tests/benchmarks/readme_picture.py runs/quickstart/exercises.html \
        "Test accuracy over T" kd_ray/studies/quickstart.svg

Any other plot will do, such as "Test errors" of a run's report.html.

The plots of a page take their colours from the page's style sheet, which a file shown by `<img>`
does not have. Here they get colours of their own: the page's light ones, a rule that puts its dark
ones in their place where the reader prefers those, and a background, so that the text can be read
on any page.
"""

import re
import sys
from pathlib import Path

FONT = 'font-family: "DejaVu Sans", Verdana, sans-serif'


def colours(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """The light and the dark colours of a page: name -> #rrggbb."""
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", page):
        (dark if name in light else light)[name] = value
    return light, dark


def plot_of(page: str, title: str) -> str:
    """The `<svg>` element of a page that is labelled with a title."""
    plots = re.findall(r'<svg role="img" aria-label="([^"]*)".*?</svg>', page, flags=re.DOTALL)
    if title not in plots:
        raise SystemExit(f"a title must be one of {plots}, but got {title!r}")
    start = page.index(f'<svg role="img" aria-label="{title}"')
    return page[start : page.index("</svg>", start)] + "</svg>\n"


def stand_alone(svg: str, light: dict[str, str], dark: dict[str, str]) -> str:
    """The same plot with colours, a font and a background of its own."""
    used = ["paper", *sorted(set(re.findall(r"var\(--([\w-]+)\)", svg)))]
    rules = []
    for name in used:
        svg = svg.replace(f"var(--{name})", light[name])
        for kind in ("fill", "stroke"):
            rules.append(f'[style*="{kind}: {light[name]}"] {{ {kind}: {dark[name]} !important }}')
    style = "\n".join([f"text {{ {FONT} }}", "@media (prefers-color-scheme: dark) {", *rules, "}"])
    paper = f'<rect width="100%" height="100%" rx="4" style="fill: {light["paper"]}"/>'
    end = svg.index(">") + 1
    return f"{svg[:end]}\n<style>\n{style}\n</style>\n{paper}{svg[end:]}"


def main(page: str, title: str, file: str) -> None:
    """Writes the picture."""
    text = Path(page).read_text(encoding="utf-8")
    Path(file).write_text(stand_alone(plot_of(text, title), *colours(text)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
