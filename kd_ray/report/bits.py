"""Low-bit students in the report: what each layer holds, costs and lets through."""

from collections.abc import Sequence

from kd_ray.report.markup import element, section, table
from kd_ray.report.plots import layer_lines
from kd_ray.result import STUDENT, Result
from kd_ray.units import bytes_shown, count_shown

NOTE = (
    "Bits of weights and of inputs, size with weights at their bits, and bit operations of one "
    "image: multiplications times both bits. On: share of the activations of a fixed sample that "
    "are above 0 after the last epoch; a layer whose activations lie on one level is dead."
)


def low_bit_section(results: Sequence[Result]) -> str:
    """Layers and their activity over epochs, for the first seed of each low-bit student.

    Args:
        results: contents of `result.json` files.

    Returns:
        HTML; empty where no student has few bits.
    """
    first: dict[str, Result] = {}
    for result in results:
        if result.kind == STUDENT and any("layers" in line for line in result.history):
            first.setdefault(result.variant, result)
    parts = [part for result in first.values() for part in (_activity(result), _layers(result))]
    if not parts:
        return ""
    return section("Few bits", *parts, element("p", NOTE, **{"class": "note"}))


def _activity(result: Result) -> str:
    records = [line for line in result.history if "layers" in line]
    names = records[-1]["layers"]
    shares = {name: [record["layers"][name]["on"] for record in records] for name in names}
    epochs = [record["epoch"] for record in records]
    plot = layer_lines(f"Activations that are on, {result.title}", epochs, shares)
    return f'<figure class="wide">{plot}</figure>'


def _layers(result: Result) -> str:
    active = result.history[-1].get("layers", {})
    rows = []
    for layer in result.layers:
        seen = active.get(layer["name"])
        rows.append(
            [
                layer["name"],
                f"W {layer['weight_bits']} A {layer['activation_bits']}",
                bytes_shown(layer["packed_bytes"]),
                count_shown(layer["bit_operations"]),
                "-" if seen is None else f"{100 * seen['on']:.1f} %",
                "-" if seen is None else " ".join(f"{100 * s:.1f}" for s in seen["levels"]),
            ]
        )
    heads = ["layer", "bits", "size", "bit operations", "on", "levels, %"]
    return f'<div class="wide">{table(heads, rows)}</div>' if rows else ""
