"""A plot of a page as a picture that stands alone, such as those in Markdown files."""

import re
from importlib import resources

FONT = 'font-family: "DejaVu Sans", Verdana, sans-serif'


def colours(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """The light and the dark colours of a page or of its style sheet: name -> #rrggbb."""
    light: dict[str, str] = {}
    dark: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", page):
        (dark if name in light else light)[name] = value
    return light, dark


def stand_alone(svg: str) -> str:
    """The same plot with colours, a font and a background of its own.

    Plots of a page take their colours from its style sheet, which a file shown by `<img>` does not
    have. Here they get the page's light ones, a rule that puts its dark ones in their place where
    the reader prefers those, and a background, so that the text can be read on any page.
    """
    light, dark = colours(
        (resources.files("kd_ray.report") / "templates" / "report.css").read_text(encoding="utf-8")
    )
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
