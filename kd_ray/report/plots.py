"""Plots as inline SVG: curves of epochs, dots of test errors, and squares of counts.

Colours are CSS variables of the page (`--ink`, `--rule`, `--teacher`, ...), so that one file suits
light, dark and paper; matplotlib, which knows no variables, draws with stand-ins that are replaced
in its output. It is imported where it is needed, and no global figure is ever made.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from statistics import mean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from kd_ray.report.summary import MODEL_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG = 20
"""Epochs from which the first ones are left out of a plot of accuracy."""

MOST_WRITTEN = 16
"""Lines of a matrix up to which the counts stand in their cells."""

INK, RULE = "ink", "rule"
STUDENTS = ("labels", "smoothing", "softened-labels", "distilled", "specialized")
VARIABLES = (INK, RULE, "teacher", *STUDENTS)
STAND_INS = {name: f"#01fe{number:02x}" for number, name in enumerate(VARIABLES)}
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": STAND_INS[RULE],
    "axes.labelcolor": STAND_INS[INK],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": STAND_INS[RULE],
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "kd-ray",
    "text.parse_math": False,
    "text.color": STAND_INS[INK],
    "xtick.color": STAND_INS[RULE],
    "xtick.labelcolor": STAND_INS[INK],
    "ytick.color": STAND_INS[RULE],
    "ytick.labelcolor": STAND_INS[INK],
}
DASHED: dict[str, Any] = {"linewidth": 1.2, "dashes": (5, 3)}
"""A level that others are compared with."""


@dataclass
class Drawing:
    """A plot while it is drawn: axes side by side, and the `<svg>` element once it is done."""

    axes: "list[Axes]"
    svg: Markup = field(default_factory=Markup)


@dataclass(frozen=True)
class Curve:
    """A figure over the epochs of one training; the kind of model chooses the colour.

    Attributes:
        values: one for each of the epochs.
        name: written beside the plot, or "".
    """

    kind: str
    epochs: Sequence[int]
    values: Sequence[float]
    name: str = ""


def colour(kind: str) -> str:
    """The CSS variable of a kind of model.

    >>> colour("distilled"), colour("another")
    ('var(--distilled)', 'var(--ink)')
    """
    return f"var(--{kind if kind in VARIABLES else INK})"


@contextmanager
def drawing(title: str, width: float, height: float, columns: int = 1) -> Iterator[Drawing]:
    """Empty axes in the page's style; what is drawn on them becomes an SVG at the end.

    The title is what the plot is called where it cannot be seen. Width and height are those of all
    axes in inches; a page is 8.8 wide.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Drawing([figure.add_subplot(1, columns, place + 1) for place in range(columns)])
        yield drawn
        drawn.svg = svg_of(figure, title)


def curves(title: str, lines: Sequence[Curve], *, percent: bool = False) -> Markup:
    """Lines over epochs, one for each training, as SVG.

    Lines with names have them in a legend, and colours from dark to light in place of their kind's.

    Args:
        title: above the plot.
        lines: at least one.
        percent: the values are shares that grow; what long lines climb through in the first tenth
            of their epochs is cut off, since the end is what one compares.
    """
    import matplotlib
    from matplotlib.ticker import PercentFormatter

    named = any(line.name for line in lines)
    shades = matplotlib.colormaps["viridis"]
    with drawing(title, *((8.8, 3.4) if named else (4.4, 2.7))) as plot:
        (axes,) = plot.axes
        for number, line in enumerate(lines):
            shade = shades(0.15 + 0.65 * number / max(len(lines) - 1, 1))
            axes.plot(
                line.epochs,
                line.values,
                color=shade if named else stand_in(line.kind),
                linewidth=1.4,
                marker="o" if len(line.epochs) == 1 else "",
                markersize=4,
                label=line.name,
            )
        axes.set_title(title)
        axes.set_xlabel("epoch")
        count_whole(axes)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.set_ylim(_worth_seeing(lines))
        axes.grid(axis="y")
        if named:
            axes.set_ylim(bottom=0)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plot.svg


def error_dots(
    title: str,
    groups: Mapping[str, Sequence[float]],
    teachers: Sequence[float],
    unit: str = "errors on the test split",
) -> Markup:
    """Test errors, one dot for each seed, a bar for the mean, and a line for each teacher, as SVG.

    Args:
        title: what the plot is called where it cannot be seen.
        groups: kind of student -> errors of its seeds; at least one kind, the first at the top.
        teachers: errors of the ensemble's members; may be empty.
        unit: what is counted.
    """
    with drawing(title, 8.8, 0.95 + 0.5 * len(groups)) as plot:
        (axes,) = plot.axes
        for row, (kind, values) in enumerate(groups.items()):
            # Dots of equal errors would hide each other, so they are spread over their row.
            last, shade = len(values) - 1, stand_in(kind)
            heights = [row + 0.36 * (place - last / 2) / max(last, 1) for place in range(last + 1)]
            axes.plot(values, heights, "o", color=shade, alpha=0.85, clip_on=False)
            if last:
                centre = mean(values)
                axes.plot([centre, centre], [row - 0.3, row + 0.3], color=shade, linewidth=2.2)
        for errors in teachers:
            axes.axvline(errors, color=stand_in("teacher"), **DASHED)
        if teachers:
            one = len(teachers) == 1
            digits = 0 if teachers[0] == round(teachers[0]) else 1
            note = (
                f"teacher {teachers[0]:,.{digits}f}"
                if one
                else f"teachers, mean {mean(teachers):,.1f}"
            )
            above = axes.get_xaxis_transform()
            axes.text(mean(teachers), 1.02, note, transform=above, ha="center", va="bottom")
        axes.set_yticks(range(len(groups)), [MODEL_NAMES.get(kind, kind) for kind in groups])
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(unit)
        axes.grid(axis="x")
    return plot.svg


def heat_map(title: str, cells: Sequence[Sequence[int]], largest: int) -> Markup:
    """Squares of one colour, as strong as their counts, as SVG.

    Lines of cells are of equal length; `largest`, the count of full strength and at least 1, is the
    same for plots to be compared.
    """
    from matplotlib.patches import Rectangle

    count, shade = len(cells), stand_in("distilled")
    filled = [(x, y, n) for y, counts in enumerate(cells) for x, n in enumerate(counts) if n]
    with drawing(title, 4.4, 4.4) as plot:
        (axes,) = plot.axes
        for x, y, value in filled:
            # The root lets the many small counts beside the diagonal be seen.
            strength = 0.85 * (value / largest) ** 0.5
            corner = (x - 0.5, y - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=shade, alpha=strength, linewidth=0))
            if count <= MOST_WRITTEN:
                axes.text(x, y, f"{value:,}", ha="center", va="center", fontsize=7)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal", title=title)
        axes.set(xlabel="group of the choice", ylabel="group of the label")
        axes.locator_params(integer=True)
    return plot.svg


def count_whole(axes: "Axes") -> None:
    """Ticks of a horizontal axis at whole numbers."""
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)


def _worth_seeing(lines: Sequence[Curve]) -> tuple[float, float] | None:
    """Limits of a plot of accuracies; None to show everything."""
    if any(len(line.values) < LONG for line in lines):
        return None
    low = min(min(line.values[len(line.values) // 10 :]) for line in lines)
    high = max(max(line.values) for line in lines)
    margin = 0.05 * (high - low) or 0.01
    return low - margin, high + margin


def stand_in(kind: str) -> str:
    """What matplotlib draws in the place of the CSS variable of a kind; `svg_of` puts it back."""
    return STAND_INS.get(kind, STAND_INS[INK])


def svg_of(figure: "Figure", title: str) -> Markup:
    """An `<svg>` element that can stand in a page beside others."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    for name, stand_in in STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    # Two plots of one page must not share ids; the page chooses the font.
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]+; ", "", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
