"""Plots of figures over a choice (temperature, views): panels side by side, each with its scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_ray.report.plots import STYLE, stand_in, svg_of
from kd_ray.report.summary import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, HIGH = 8.8, 3.6


@dataclass(frozen=True)
class Line:
    """Figures over the values of a choice.

    Attributes:
        name: what a person calls it.
        kind: it chooses the colour.
        places: values of the choice, above 0.
        figures: over seeds, one for each of them.
    """

    name: str
    kind: str
    places: Sequence[float]
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Level:
    """A figure that the choice does not move.

    Attributes:
        name: what a person calls it.
        kind: it chooses the colour.
        figure: over seeds; its spread is drawn as a band.
    """

    name: str
    kind: str
    figure: Figure


@dataclass(frozen=True)
class Panel:
    """One plot of several: what is compared in it.

    Attributes:
        title: above it.
        lines: at least one.
        levels: behind them; may be none.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()


def over_choice(
    title: str, panels: Sequence[Panel], *, choice: str, figure: str, percent: bool = False
) -> str:
    """Panels side by side on a logarithmic axis of the choice, bars for the spread, as SVG.

    Args:
        title: what the plot is called where it cannot be seen.
        panels: at least one; each has its own scale of figures.
        choice: what the horizontal axis is.
        figure: what the vertical axis is.
        percent: the figures are shares.
    """
    import matplotlib
    from matplotlib.figure import Figure as Drawing
    from matplotlib.ticker import PercentFormatter

    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(WIDE, HIGH), layout="constrained")
        for number, panel in enumerate(panels):
            axes = drawing.add_subplot(1, len(panels), number + 1)
            _draw(axes, panel)
            axes.set_xlabel(choice)
            if percent:
                axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            if number == 0:
                axes.set_ylabel(figure)
            if number == len(panels) - 1 or len(panels) == 1:
                axes.legend(frameon=False, fontsize=8)
        return svg_of(drawing, title)


def _draw(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import NullLocator

    for level in panel.levels:
        shade, mean, spread = stand_in(level.kind), level.figure.mean, level.figure.spread
        axes.axhline(mean, color=shade, linewidth=1.2, dashes=(5, 3), label=level.name)
        if spread:
            axes.axhspan(mean - spread, mean + spread, color=shade, alpha=0.12, linewidth=0)
    for line in panel.lines:
        axes.errorbar(
            line.places,
            [figure.mean for figure in line.figures],
            yerr=[figure.spread or 0.0 for figure in line.figures],
            color=stand_in(line.kind),
            label=line.name,
            linewidth=1.5,
            marker="o",
            markersize=5,
            capsize=2.5,
            elinewidth=0.8,
        )
    places = sorted({place for line in panel.lines for place in line.places})
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.grid(axis="y")
