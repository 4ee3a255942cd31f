"""Specialists in the report: who has which classes, and what they are worth by coverage."""

from collections.abc import Iterator, Sequence
from typing import Any

from kd_ray.report.plots import heat_map
from kd_ray.report.summary import Summary
from kd_ray.specialists import Clusters, gain_kept


def stage_result(results: Sequence[dict[str, Any]], stage: str) -> dict[str, Any] | None:
    """The result of a stage that a run does once, or None."""
    return next((result for result in results if result["stage"] == stage), None)


def cluster_lines(result: dict[str, Any]) -> Iterator[str]:
    """Two lines for each specialist: its classes, and those that it shares with others.

    Args:
        result: of the clusters.
    """
    names = result["class_names"]
    clusters = Clusters(tuple(result["of_class"]), tuple(map(tuple, result["special"])))
    for number, special in enumerate(clusters.special):
        own = sum(clusters.of_class[place] == number for place in special)
        cluster = clusters.of_class.count(number)
        size = "its cluster"
        if not own == cluster == len(special):
            size = f"{own} of its cluster's {cluster}, {len(special) - own} others"
        yield f"specialist {number}: {len(special)} classes ({size}): {_named(names, special)}"
        shared = [
            f"{len(classes)} with {other} ({_named(names, classes)})"
            for other, classes in clusters.overlaps(number).items()
        ]
        yield f"  shares {', '.join(shared)}" if shared else "  shares none"


def _named(names: Sequence[str], classes: Sequence[int]) -> str:
    return " ".join(names[place] for place in classes)


def coverage_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """The paper's table 4: heading -> text, a line for each number of specialists.

    Args:
        result: of the specialists' transfer set.
    """
    lines = [
        *result["coverage"],
        {
            "specialists": "all",
            "rows": result["generalist"]["rows"],
            "correct_before": result["generalist"]["rows"] - result["generalist"]["errors"],
            "correct_after": result["combined"]["rows"] - result["combined"]["errors"],
        },
    ]
    return [
        {
            "specialists": str(line["specialists"]),
            "images": f"{line['rows']:,}",
            "right before": f"{line['correct_before']:,}",
            "after": f"{line['correct_after']:,}",
            "relative change %": _relative(line["correct_before"], line["correct_after"]),
            "of errors %": _relative(
                line["rows"] - line["correct_before"], line["rows"] - line["correct_after"]
            ),
        }
        for line in lines
    ]


def _relative(before: int, after: int) -> str:
    return f"{100 * (after - before) / before:+.2f}" if before else "-"


def specialists_sentences(summary: Summary) -> list[str]:
    """What specialists gain, where, and what of it their student keeps; empty without them."""
    result = stage_result(summary.results, "combine")
    if result is None:
        return []
    before, after = result["generalist"]["accuracy"], result["combined"]["accuracy"]
    old, new = (sum(map(sum, result[f"confusion_{when}"])) for when in ("before", "after"))
    within, within_after = (_within(result[f"confusion_{when}"]) for when in ("before", "after"))
    gain = f", {100 * (after / before - 1):+.2f} % of it" if before else ""
    lines = [
        f"Specialists: the generalist's {100 * before:.2f} % become {100 * after:.2f} %{gain}. "
        f"Errors within clusters {within:,} -> {within_after:,}, between them "
        f"{old - within:,} -> {new - within_after:,}."
    ]
    student = summary.row("specialized")
    if student is None or "accuracy" not in student.metrics:
        return lines
    accuracy = student.metrics["accuracy"]
    shown = f"Their student has {accuracy.shown(2, scale=100)} %"
    kept = gain_kept(before, after, accuracy.mean)
    if kept is None:
        return [*lines, f"{shown}; there is no gain over the generalist to keep."]
    text = f"{shown}: {100 * kept:.0f} % of the way from the generalist to the specialists"
    if kept < 0:
        text = f"{shown}: more errors than the generalist"
    distilled = summary.row("distilled")
    if distilled is not None and "accuracy" in distilled.metrics:
        base = distilled.metrics["accuracy"]
        change = 100 * (accuracy.mean - base.mean)
        text += (
            f", {change:+.2f} points from the student of the generalist alone "
            f"({base.shown(2, scale=100)} %)"
        )
    return [*lines, f"{text}."]


def _within(cells: Sequence[Sequence[int]]) -> int:
    return sum(line[place] for place, line in enumerate(cells))


def specialists_parts(summary: Summary) -> dict[str, Any]:
    """Texts, table and plots of a run's specialists by their names in the template of its page."""
    found = stage_result(summary.results, "cluster")
    combined = stage_result(summary.results, "combine")
    lines = [] if found is None else [line.strip() for line in cluster_lines(found)]
    parts: dict[str, Any] = {
        "specialists": specialists_sentences(summary),
        "clusters": list(zip(lines[::2], lines[1::2], strict=True)),
        "coverage": [],
        "confusion": [],
    }
    if combined is not None:
        before, after = combined["confusion_before"], combined["confusion_after"]
        largest = max(1, *(count for cells in (before, after) for line in cells for count in line))
        parts["coverage"] = coverage_rows(combined)
        parts["confusion"] = [
            heat_map("Confusion between clusters, generalist", before, largest),
            heat_map("Confusion between clusters, with specialists", after, largest),
        ]
    return parts
