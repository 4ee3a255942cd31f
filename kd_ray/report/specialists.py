"""Specialists in the report: who has which classes, and what they are worth by coverage."""

from collections.abc import Sequence

from kd_ray.report.heat import heat_map
from kd_ray.report.markup import element, paragraph, section, table
from kd_ray.report.summary import Summary
from kd_ray.result import CLASS_GROUPS, JOINT_SET, Result
from kd_ray.runs.group_classes import group_lines
from kd_ray.specialists import gain_kept

NOTE = (
    "Specialists: how many have the true class of a test image. Relative change: of the number of "
    "right first choices, as in the paper's table 4; of errors: the same of the wrong ones, since "
    "classes that were nearly all right have no room for more. Confusion: wrong first choices "
    "among the test images, by the group of the label (line) and the group of the choice "
    "(column); the diagonal is confusion within a group. Groups are numbered as their "
    "specialists are. A specialist may have other classes beside its group's."
)


def result_of(results: Sequence[Result], kind: str) -> Result | None:
    """The record of a kind of which a run has one, or None."""
    return next((result for result in results if result.kind == kind), None)


def coverage_rows(result: Result) -> list[dict[str, str]]:
    """The paper's table 4: heading -> text, a line for each number of specialists.

    Args:
        result: of the specialists' transfer set.
    """
    details = result.details
    lines = [
        *details["coverage"],
        {
            "specialists": "all",
            "rows": details["generalist"]["rows"],
            "correct_before": details["generalist"]["rows"] - details["generalist"]["errors"],
            "correct_after": details["combined"]["rows"] - details["combined"]["errors"],
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
    result = result_of(summary.results, JOINT_SET)
    if result is None:
        return []
    details = result.details
    before, after = details["generalist"]["accuracy"], details["combined"]["accuracy"]
    old, new = (sum(map(sum, details[f"confusion_{when}"])) for when in ("before", "after"))
    within, within_after = (_within(details[f"confusion_{when}"]) for when in ("before", "after"))
    gain = f", {100 * (after / before - 1):+.2f} % of it" if before else ""
    lines = [
        f"Specialists: the generalist's {100 * before:.2f} % become {100 * after:.2f} %{gain}. "
        f"Errors within groups {within:,} -> {within_after:,}, between them "
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


def specialists_section(summary: Summary) -> str:
    """Table, plots and classes as HTML; empty where there are no specialists."""
    found = result_of(summary.results, CLASS_GROUPS)
    combined = result_of(summary.results, JOINT_SET)
    parts = [paragraph(line) for line in specialists_sentences(summary)]
    if combined is not None:
        rows = coverage_rows(combined)
        parts.append(
            f'<div class="wide">{table(list(rows[0]), [list(row.values()) for row in rows])}</div>'
        )
        before, after = combined.details["confusion_before"], combined.details["confusion_after"]
        largest = max(1, *(count for cells in (before, after) for line in cells for count in line))
        plots = (
            heat_map("Confusion between groups, generalist", before, largest),
            heat_map("Confusion between groups, with specialists", after, largest),
        )
        figures = "".join(f"<figure>{plot}</figure>" for plot in plots)
        parts.append(f'<div class="plots">{figures}</div>')
    if found is not None:
        lines = list(group_lines(found))
        items = "".join(
            f"<li>{element('span', first)}<br>{element('small', second.strip())}</li>"
            for first, second in zip(lines[::2], lines[1::2], strict=True)
        )
        parts.append(f"<ul>{items}</ul>")
    if not parts:
        return ""
    return section("Specialists", *parts, element("p", NOTE, **{"class": "note"}))
