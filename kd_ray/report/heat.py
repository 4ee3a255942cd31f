"""A matrix of counts as a plot: one square for each cell, the fuller the darker."""

from collections.abc import Sequence

from kd_ray.report.plots import INK, STYLE, stand_in, svg_of

MOST_WRITTEN = 16
"""Lines of a matrix up to which the counts stand in their cells."""


def heat_map(title: str, cells: Sequence[Sequence[int]], largest: int) -> str:
    """Squares of one colour, as strong as their counts, as SVG.

    Args:
        title: above the plot.
        cells: lines of equal length.
        largest: the count of full strength, at least 1; the same for plots to be compared.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    count = len(cells)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for line, counts in enumerate(cells):
            for column, value in enumerate(counts):
                if not value:
                    continue
                # The root lets the many small counts beside the diagonal be seen.
                strength = 0.85 * (value / largest) ** 0.5
                place = (column - 0.5, line - 0.5)
                shade = stand_in("distilled")
                axes.add_patch(Rectangle(place, 1, 1, facecolor=shade, alpha=strength, linewidth=0))
                if count <= MOST_WRITTEN:
                    ink = stand_in(INK)
                    axes.text(
                        column, line, f"{value:,}", ha="center", va="center", fontsize=7, color=ink
                    )
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("group of the choice")
        axes.set_ylabel("group of the label")
        return svg_of(figure, title)
