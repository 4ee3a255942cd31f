"""Plots as inline SVG: curves of epochs, and dots of test errors.

Colours are CSS variables of the page (`--ink`, `--rule`, `--teacher`, ...), so that one file suits
light, dark and paper; matplotlib, which knows no variables, draws with stand-ins that are replaced
in its output. It is imported where it is needed, and no global figure is ever made.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG = 20
"""Epochs from which the first ones are left out of a plot of accuracy."""

INK, RULE = "ink", "rule"
STUDENTS = ("labels", "smoothing", "softened-labels", "distilled", "specialized")
VARIABLES = (INK, RULE, "teacher", *STUDENTS)
STAND_INS = {name: f"#01fe{number:02x}" for number, name in enumerate(VARIABLES)}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": STAND_INS[RULE],
    "axes.labelcolor": STAND_INS[INK],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": STAND_INS[RULE],
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "kd-ray",
    "text.parse_math": False,
    "text.color": STAND_INS[INK],
    "xtick.color": STAND_INS[RULE],
    "xtick.labelcolor": STAND_INS[INK],
    "ytick.color": STAND_INS[RULE],
    "ytick.labelcolor": STAND_INS[INK],
}


@dataclass(frozen=True)
class Curve:
    """A figure over the epochs of one training.

    Attributes:
        kind: of model; it chooses the colour.
        epochs: numbers of the epochs.
        values: one for each of them.
    """

    kind: str
    epochs: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Dots:
    """Test errors of one kind of model.

    Attributes:
        kind: it chooses the colour.
        name: what a person calls it.
        errors: one for each seed.
    """

    kind: str
    name: str
    errors: Sequence[float]


@dataclass(frozen=True)
class Series:
    """Test accuracies of one kind of student over temperatures.

    Attributes:
        name: what a person calls it.
        kind: it chooses the colour.
        temperatures: T of each point; a single None is a level that no T moves.
        means: over seeds, one for each of them.
        spreads: the same.
    """

    name: str
    kind: str
    temperatures: Sequence[float | None]
    means: Sequence[float]
    spreads: Sequence[float]


def colour(kind: str) -> str:
    """The CSS variable of a kind of model.

    >>> colour("distilled"), colour("another")
    ('var(--distilled)', 'var(--ink)')
    """
    return f"var(--{kind if kind in VARIABLES else INK})"


def curves(title: str, lines: Sequence[Curve], *, percent: bool = False) -> str:
    """Lines over epochs, one for each training, as SVG.

    Args:
        title: above the plot.
        lines: at least one.
        percent: the values are shares that grow; what long lines climb through in the first tenth
            of their epochs is cut off, since the end is what one compares.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                line.epochs,
                line.values,
                color=stand_in(line.kind),
                linewidth=1.3,
                marker="o" if len(line.epochs) == 1 else "",
                markersize=4,
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.set_ylim(_worth_seeing(lines))
        axes.grid(axis="y")
        return svg_of(figure, title)


def error_dots(title: str, groups: Sequence[Dots], teachers: Sequence[float]) -> str:
    """Test errors, one dot for each seed, a bar for the mean, and a line for each teacher, as SVG.

    Args:
        title: above the plot.
        groups: at least one kind of student, the first at the top.
        teachers: errors of the ensemble's members; may be empty.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.8, 0.95 + 0.5 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        for row, group in enumerate(groups):
            _draw_dots(axes, row, group)
        for errors in teachers:
            axes.axvline(errors, color=stand_in("teacher"), linewidth=1.2, dashes=(5, 3))
        if teachers:
            one = len(teachers) == 1
            note = f"teacher {teachers[0]:,.0f}" if one else f"teachers, mean {mean(teachers):,.1f}"
            above = axes.get_xaxis_transform()
            x, y = mean(teachers), 1.02
            axes.text(x, y, note, transform=above, ha="center", va="bottom", fontsize=9)
        axes.set_yticks(range(len(groups)), [group.name for group in groups])
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("errors on the test split")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return svg_of(figure, title)


def layer_lines(title: str, epochs: Sequence[int], shares: Mapping[str, Sequence[float]]) -> str:
    """Shares over epochs, a line for each layer named beside it, as SVG.

    Args:
        title: above the plot.
        epochs: numbers of the epochs.
        shares: layer -> one for each epoch; at least one layer, the first ones darker.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    colours = matplotlib.colormaps["viridis"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, line) in enumerate(shares.items()):
            shade = colours(0.15 + 0.65 * number / max(len(shares) - 1, 1))
            marker = "o" if len(epochs) == 1 else ""
            axes.plot(epochs, line, color=shade, linewidth=1.4, marker=marker, label=name)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        return svg_of(figure, title)


def over_temperature(title: str, lines: Sequence[Series], teachers: Sequence[float]) -> str:
    """Accuracy over T on a logarithmic axis, with bars for the spread, as SVG.

    Args:
        title: above the plot.
        lines: at least one.
        teachers: accuracies of the ensemble's members; may be empty.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, PercentFormatter

    known = sorted({t for line in lines for t in line.temperatures if t is not None})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            shade = stand_in(line.kind)
            level = line.temperatures[0] is None
            places = known or [1.0]
            means = [line.means[0]] * len(places) if level else list(line.means)
            spreads = [line.spreads[0]] * len(places) if level else list(line.spreads)
            at = places if level else [t for t in line.temperatures if t is not None]
            axes.errorbar(
                at,
                means,
                yerr=spreads,
                color=shade,
                label=line.name,
                linewidth=1.5,
                marker="" if level else "o",
                markersize=5,
                capsize=2.5,
                elinewidth=0.8,
            )
        for accuracy in teachers:
            axes.axhline(accuracy, color=stand_in("teacher"), linewidth=1.2, dashes=(5, 3))
        axes.set_xscale("log")
        axes.set_xticks(known, [f"{t:g}" for t in known])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("temperature T")
        axes.grid(axis="y")
        axes.legend(frameon=False, ncols=2)
        return svg_of(figure, title)


def _worth_seeing(lines: Sequence[Curve]) -> tuple[float, float] | None:
    """Limits of a plot of accuracies; None to show everything."""
    if any(len(line.values) < LONG for line in lines):
        return None
    low = min(min(line.values[len(line.values) // 10 :]) for line in lines)
    high = max(max(line.values) for line in lines)
    margin = 0.05 * (high - low) or 0.01
    return low - margin, high + margin


def _draw_dots(axes: "Axes", row: int, group: Dots) -> None:
    """Dots of equal errors would hide each other, so they are spread over the height of a row."""
    count = len(group.errors)
    heights = [row + 0.36 * (place - (count - 1) / 2) / max(count - 1, 1) for place in range(count)]
    shade = stand_in(group.kind)
    axes.plot(group.errors, heights, "o", color=shade, markersize=6, alpha=0.85, clip_on=False)
    if count > 1:
        centre = mean(group.errors)
        axes.plot([centre, centre], [row - 0.3, row + 0.3], color=shade, linewidth=2.2)


def stand_in(kind: str) -> str:
    """What matplotlib draws in the place of the CSS variable of a kind; `svg_of` puts it back."""
    return STAND_INS.get(kind, STAND_INS[INK])


def svg_of(figure: "Figure", title: str) -> str:
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
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
