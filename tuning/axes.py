"""Axes of a sweep's plots: their limits, ticks, marks and legends. Knows nothing of trials.

They look like those of `kd_ray.report.plots` and use its colours. A few bad values would press all
others together, so an axis ends where most of them do, and what lies beyond is a triangle on its
edge.
"""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from kd_ray.report.plots import stand_in, svg_of
from kd_ray.units import bytes_shown, count_shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COSTS = {"packed_bytes": bytes_shown, "bit_operations": count_shown}
"""Metrics of the model, not of its answers, and how they are shown."""

REACH = 3
"""An axis ends at so many times the distance from the best value to the third quarter of them."""

FEW = 4
"""Marks that a legend has room for beside the title."""

LABEL = (22, 11)
"""Width and height of a short label, in points."""

Point = tuple[float, float]


def metric_name(metric: str) -> str:
    """What a person calls a metric.

    >>> metric_name("accuracy"), metric_name("packed_bytes")
    ('validation accuracy', 'packed bytes')
    """
    return ("" if metric in COSTS else "validation ") + metric.replace("_", " ")


def worth_seeing(values: Sequence[float], rising: bool) -> Point:
    """Limits of an axis that shows most values, and all of the good ones.

    >>> [round(end, 3) for end in worth_seeing([0.1, 0.91, 0.92, 0.92, 0.93], rising=True)]
    [0.866, 0.934]
    >>> worth_seeing([2.0], rising=False)
    (1.98, 2.02)

    Args:
        values: at least one.
        rising: whether more is better.
    """
    sign = 1 if rising else -1
    scores = sorted((sign * value for value in values), reverse=True)
    best, worst = scores[0], scores[-1]
    usual = best - scores[3 * (len(scores) - 1) // 4]
    if usual > 0:
        worst = max(worst, best - REACH * usual)
    margin = 0.06 * (best - worst) or 0.01 * abs(best) or 0.01
    ends = sign * (best + margin), sign * (worst - margin)
    return min(ends), max(ends)


def new_figure(
    title: str, height: float = 3.2, widths: Sequence[int] = (1,)
) -> "tuple[Figure, list[Axes]]":
    """Axes side by side that share the vertical one.

    Args:
        title: above the first.
        height: of all, in inches.
        widths: of each, relative to the others.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, height), layout="constrained")
    row = figure.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axes in row:
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    row[0].set_title(title, loc="left", fontsize=10)
    return figure, list(row)


def finished_svg(figure: "Figure", title: str, name: str, metric: str) -> str:
    """The figure as SVG, with names of its axes and a legend of its marks.

    Args:
        figure: of `new_figure`.
        title: the same.
        name: of the horizontal axis.
        metric: on the vertical one.
    """
    first, last = figure.axes[0], figure.axes[-1]
    last.set_xlabel(name)
    first.set_ylabel(metric_name(metric))
    show_values(first.yaxis, metric)
    known = [axes.get_legend_handles_labels() for axes in figure.axes]
    marks = {label: mark for pair in known for mark, label in zip(*pair, strict=True)}
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    if len(marks) <= FEW:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": FEW}
    if marks:
        last.legend(marks.values(), marks.keys(), frameon=False, borderaxespad=0.2, **place)
    return svg_of(figure, title)


def draw_dots(
    axes: "Axes",
    points: Sequence[Point],
    limits: Point | None,
    kind: str,
    marker: str = "o",
    **look: Any,
) -> None:
    """Marks of points, and triangles on the edge for those beyond the limits.

    Args:
        axes: to draw on.
        points: may be none; then nothing is in the legend either.
        limits: of the vertical axis; None to show everything.
        kind: it chooses the colour.
        marker: matplotlib's letter of a shape.
        look: matplotlib's other properties of marks.
    """
    low, high = limits or (-inf, inf)
    if limits is not None:
        axes.set_ylim(limits)
    for shape, part in (
        (marker, [(x, y) for x, y in points if low <= y <= high]),
        ("v", [(x, low) for x, y in points if y < low]),
        ("^", [(x, high) for x, y in points if y > high]),
    ):
        if part:
            xs, ys = zip(*part, strict=True)
            color = stand_in(kind)
            axes.plot(xs, ys, shape, color=color, markersize=5.5, clip_on=False, alpha=0.85, **look)
            look["label"] = "_"  # which the legend leaves out


def name_places(
    figure: "Figure", axes: "Axes", named: Sequence[tuple[Point, str]], left: bool, above: bool
) -> None:
    """Writes names beside places; those that would cover each other become one label.

    Args:
        figure: with everything that moves its axes.
        axes: of the places.
        named: places with their names, neighbours after each other.
        left: whether names stand on that side.
        above: the same.
    """
    figure.draw_without_rendering()  # only now is it known how far apart places are
    points_per_pixel = 72 / figure.dpi
    groups: list[tuple[Point, list[str]]] = []
    for place, name in named:
        if groups:
            here, there = axes.transData.transform([place, groups[-1][0]]) * points_per_pixel
            if all(abs(here - there) < LABEL):
                groups[-1][1].append(name)
                continue
        groups.append((place, [name]))
    for place, names in groups:
        axes.annotate(
            ", ".join(names),
            place,
            (-5 if left else 5, 3 if above else -3),
            textcoords="offset points",
            ha="right" if left else "left",
            va="bottom" if above else "top",
            fontsize=8,
        )


def count_whole(axis: "Axis") -> None:
    """Ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=10, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))


def make_logarithmic(axes: "Axes") -> None:
    """A horizontal axis over the logarithm, with ticks at round numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    parts = (1, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=parts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def show_values(axis: "Axis", metric: str) -> None:
    """Numbers at ticks as a person reads the metric."""
    if metric in COSTS:
        axis.set_major_formatter(lambda value, _: COSTS[metric](value))
