"""Specialists in the report: who has which classes, and what they are worth by coverage."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kd_ray.report.plots import heat_map
from kd_ray.report.summary import Summary
from kd_ray.result import CLASS_GROUPS, JOINT_SET, Result
from kd_ray.runs.group_classes import group_lines
from kd_ray.specialists import gain_kept


def result_of(results: Sequence[Result], kind: str) -> Result | None:
    """The record of a kind of which a run has one, or None."""
    return next((result for result in results if result.kind == kind), None)


def coverage_rows(result: Result) -> list[dict[str, str]]:
    """The paper's table 4: heading -> text, a line for each number of specialists.

    Args:
        result: the record of the specialists' transfer set.
    """
    keys = ("rows", "correct_before", "correct_after")
    counts = {
        str(line["specialists"]): [line[key] for key in keys] for line in result.details["coverage"]
    }
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    return [
        {
            "specialists": name,
            "images": f"{rows:,}",
            "right before": f"{before:,}",
            "after": f"{after:,}",
            "relative change %": _relative(before, after),
            "of errors %": _relative(rows - before, rows - after),
        }
        for name, (rows, before, after) in {**counts, "all": total}.items()
    ]


def _relative(before: int, after: int) -> str:
    return f"{100 * (after - before) / before:+.2f}" if before else "-"


def specialists_sentences(summary: Summary) -> list[str]:
    """What specialists gain, where, and what of it their student keeps; empty without them."""
    result = result_of(summary.results, JOINT_SET)
    if result is None:
        return []
    details = result.details
    before, after = details["generalist"]["accuracy"], details["combined"]["accuracy"]
    tables = [details[f"confusion_{when}"] for when in ("before", "after")]
    within = [sum(line[place] for place, line in enumerate(cells)) for cells in tables]
    between = [sum(map(sum, cells)) - inner for cells, inner in zip(tables, within, strict=True)]
    gain = f", {100 * (after / before - 1):+.2f} % of it" if before else ""
    lines = [
        f"Specialists: the generalist's {100 * before:.2f} % become {100 * after:.2f} %{gain}. "
        f"Errors within groups {within[0]:,} -> {within[1]:,}, between them "
        f"{between[0]:,} -> {between[1]:,}."
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
        change, alone = 100 * (accuracy.mean - base.mean), base.shown(2, scale=100)
        text += f", {change:+.2f} points from the student of the generalist alone ({alone} %)"
    return [*lines, f"{text}."]


def specialists_parts(summary: Summary) -> dict[str, Any]:
    """Texts, table and plots of a run's specialists by their names in the template of its page."""
    grouped = result_of(summary.results, CLASS_GROUPS)
    combined = result_of(summary.results, JOINT_SET)
    return {
        "specialists": specialists_sentences(summary),
        "groups": group_lines(grouped) if grouped else [],
        "coverage": coverage_rows(combined) if combined else [],
        "confusion": _confusion_plots(combined) if combined else [],
    }


def _confusion_plots(combined: Result) -> list[Markup]:
    before, after = (combined.details[f"confusion_{when}"] for when in ("before", "after"))
    largest = max(1, *(count for cells in (before, after) for line in cells for count in line))
    return [
        heat_map("Confusion between groups, generalist", before, largest),
        heat_map("Confusion between groups, with specialists", after, largest),
    ]
