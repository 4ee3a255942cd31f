"""Exported models of a run: a table, and accuracy over what a file and a picture cost."""

from collections import Counter
from collections.abc import Sequence

from kd_ray.report.plots import drawing, stand_in
from kd_ray.result import EXPORT, Result
from kd_ray.runs.export import agreement
from kd_ray.units import bytes_shown

SHADES = {"packed": "distilled", "onnx": "teacher", "c": "labels", "pt2": "smoothing"}
"""Format -> the kind of model whose colour it has."""
PANELS = {
    "size, kB": ("bytes", 1e-3, ("packed", "onnx", "pt2")),
    "time of a picture, us": ("us_per_image", 1.0, ("onnx", "c", "pt2")),
}
"""Axis -> figure, its factor, and formats that are made for it: a C file is text, and the packed
one is read by a reference that is not fast."""


def export_rows(results: Sequence[Result], *, named: bool = True) -> list[dict[str, str]]:
    """Headings and texts of a table: a line for each export.

    Args:
        results: of any kind; those of exports are taken.
        named: with the model of which it is.
    """
    return [_cells(result, named) for result in results if result.kind == EXPORT]


def _cells(result: Result, named: bool) -> dict[str, str]:
    figures = result.metrics
    taken = figures["us_per_image"]
    onnx = figures.get("onnx_us_per_image")
    return {
        **({"model": model_of(result)} if named else {}),
        "format": str(result.details["format"]),
        **({"bits": bits_of(result), "accuracy %": f"{figures['accuracy']:.2%}"} if named else {}),
        "size": bytes_shown(figures["bytes"]),
        "float size": bytes_shown(figures["float_bytes"]),
        "smaller": f"{figures['float_bytes'] / figures['bytes']:.1f} x",
        "same classes": agreement(figures),
        "largest difference": f"{figures['largest_difference']:.1e}",
        "touched": f"{figures['touched']:,}",
        "time": f"{taken:,.0f} us",
        "float ONNX": "-" if onnx is None else f"{onnx:,.0f} us",
        "faster": "-" if onnx is None else f"{onnx / taken:.1f} x",
        "float torch": f"{figures['torch_us_per_image']:,.0f} us",
    }


def model_of(result: Result) -> str:
    """The folder of the model that an export is of, below the run's."""
    return result.title.rpartition(" as ")[0]


def bits_of(result: Result) -> str:
    """Bits of the weights and inputs that most layers of integers have."""
    layers = [each for each in result.details["exported_layers"] if not each["is_float"]]
    bits = Counter((each["weight_bits"], each["input_bits"]) for each in layers)
    if not bits:
        return "float"
    (weights, inputs), _ = bits.most_common(1)[0]
    return f"W{weights} A{inputs}"


def export_plot(results: Sequence[Result]) -> str:
    """Accuracy over size and over time as SVG, fronts joined; empty with fewer than two models."""
    made = [result for result in results if result.kind == EXPORT]
    panels = {
        axis: [(r, scale * r.metrics[name]) for r in made if r.details["format"] in formats]
        for axis, (name, scale, formats) in PANELS.items()
    }
    panels = {axis: points for axis, points in panels.items() if points}
    if len({model_of(result) for result in made}) < 2 or not panels:
        return ""
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    with drawing("Exported models", 8.8, 3.6, columns=len(panels)) as plot:
        for axes, (axis, points) in zip(plot.axes, panels.items(), strict=True):
            places = [(cost, result.metrics["accuracy"]) for result, cost in points]
            best = front(places)
            for format, shade in SHADES.items():
                own = [p for p, (r, _) in zip(places, points, strict=True) if _is(r, format)]
                if own:
                    axes.plot(*zip(*own, strict=True), "o", color=stand_in(shade), label=format)
            best.sort(key=lambda number: places[number])
            joined = [places[number] for number in best]
            axes.plot(*zip(*joined, strict=True), color=stand_in("ink"), linewidth=0.8, zorder=1)
            for turn, number in enumerate(best):
                text, place = bits_of(points[number][0]), places[number]
                beside, side = ((-5, 5), "right") if turn % 2 else ((5, -11), "left")
                axes.annotate(text, place, beside, textcoords="offset points", fontsize=8, ha=side)
            axes.set(xscale="log", xlabel=axis)
            axes.margins(x=0.15, y=0.12)
            for each in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                each(
                    FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
                )
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.grid(axis="y")
            axes.legend(loc="lower right")
        plot.axes[0].set_ylabel("test accuracy")
    return plot.svg


def _is(result: Result, format: str) -> bool:
    return bool(result.details["format"] == format)


def front(places: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the places that no other beats: none costs less and is as good, or is better.

    >>> front([(10, 0.9), (20, 0.8), (30, 0.95), (10, 0.85)])
    [0, 2]
    """
    return [
        number
        for number, (cost, worth) in enumerate(places)
        if not any(
            other != (cost, worth) and other[0] <= cost and other[1] >= worth for other in places
        )
    ]
