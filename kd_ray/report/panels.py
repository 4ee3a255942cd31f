"""Plots of figures over a choice (temperature, views): panels side by side, each with its scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from kd_ray.report.plots import DASHED, drawing, stand_in
from kd_ray.report.summary import Figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """Figures over the values of a choice, or a level that the choice does not move.

    Attributes:
        kind: it chooses the colour.
        figures: over seeds, one for each place; the only one of a level, its spread as a band.
        places: values of the choice, above 0; none of a level.
    """

    name: str
    kind: str
    figures: Sequence[Figure]
    places: Sequence[float] = ()


def over_choice(
    title: str,
    panels: Mapping[str, Sequence[Line]],
    *,
    choice: str,
    figure: str,
    percent: bool = False,
) -> Markup:
    """Panels side by side on a logarithmic axis of the choice, bars for the spread, as SVG.

    Args:
        title: what the plot is called where it cannot be seen.
        panels: title -> lines; at least one, each with its own scale of figures.
        choice: what the horizontal axis is.
        figure: what the vertical axis is.
        percent: the figures are shares.
    """
    from matplotlib.ticker import PercentFormatter

    with drawing(title, 8.8, 3.8, columns=len(panels)) as plot:
        for axes, (name, lines) in zip(plot.axes, panels.items(), strict=True):
            _draw(axes, lines)
            axes.set(title=name, xlabel=choice)
            if percent:
                axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        plot.axes[0].set_ylabel(figure)
        marks: dict[str, Artist] = {}
        for each in plot.axes:
            handles, names = each.get_legend_handles_labels()
            marks |= dict(zip(names, handles, strict=True))
        axes.figure.legend(list(marks.values()), list(marks), loc="outside lower left", ncols=3)
    return plot.svg


def _draw(axes: "Axes", lines: Sequence[Line]) -> None:
    from matplotlib.ticker import NullLocator

    for line in lines:
        shade, first = stand_in(line.kind), line.figures[0]
        if not line.places:
            axes.axhline(first.mean, color=shade, label=line.name, **DASHED)
            spread = first.spread or 0.0
            band = (first.mean - spread, first.mean + spread)
            axes.axhspan(*band, color=shade, alpha=0.12, linewidth=0)
            continue
        axes.errorbar(
            line.places,
            [figure.mean for figure in line.figures],
            yerr=[figure.spread or 0.0 for figure in line.figures],
            color=shade,
            label=line.name,
            linewidth=1.5,
            marker="o",
            markersize=5,
            capsize=2.5,
            elinewidth=0.8,
        )
    places = sorted({place for line in lines for place in line.places})
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
