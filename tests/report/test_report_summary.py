import random
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from kd_ray.report.html import Section, rendered
from kd_ray.report.summary import Figure, Summary, summarize_results
from kd_ray.result import STUDENT, TEACHER, Result

ERRORS = st.integers(0, 10_000)


def result(name: str, errors: int, **metrics: float) -> Result:
    teacher = name == TEACHER
    return Result(
        stage="teach" if teacher else "distill",
        kind=TEACHER if teacher else STUDENT,
        name="run",
        title=name,
        variant="" if teacher else name,
        metrics={"errors": errors, "accuracy": 1 - errors / 10_000, **metrics},
        parameters=1000,
        seconds=1.5,
        images_per_s=100.0,
    )


def summary(**errors: int) -> Summary:
    return summarize_results(Path("run"), [result(name, count) for name, count in errors.items()])


@given(ERRORS, ERRORS)
def test_gap_closed_is_one_for_a_student_as_good_as_its_teacher(labels: int, teacher: int) -> None:
    assume(labels > teacher)
    assert summary(teacher=teacher, labels=labels, distilled=teacher).gap_closed == 1
    assert summary(teacher=teacher, labels=labels, distilled=labels).gap_closed == 0


@given(ERRORS, ERRORS, ERRORS)
def test_gap_closed_places_the_student_between_labels_and_teacher(
    labels: int, teacher: int, distilled: int
) -> None:
    assume(labels > teacher)
    gap = summary(teacher=teacher, labels=labels, distilled=distilled).gap_closed
    assert gap is not None
    assert labels + gap * (teacher - labels) == pytest.approx(distilled, abs=1e-6)


def test_gap_closed_of_the_papers_mnist_student_is_91_percent() -> None:
    hinton = summary(teacher=67, labels=146, distilled=74)
    assert hinton.about_gap().startswith("Gap closed: 91 % of the errors")


def test_gap_closed_is_none_where_there_is_no_gap_and_says_so_where_it_widened() -> None:
    assert summary(teacher=50, labels=50, distilled=40).gap_closed is None
    assert summary(teacher=50, labels=50, distilled=40).about_gap() == ""
    worse = summary(teacher=50, labels=60, distilled=63)
    assert worse.about_gap().startswith("Gap closed: -30 %; the distilled student makes more")
    assert summary(teacher=50, distilled=40).gap_closed is None
    assert summary(teacher=50, distilled=40).about_gap() == ""


def test_summarize_results_puts_the_teacher_first_and_the_distilled_student_last() -> None:
    names = ["distilled", "labels", "teacher", "smoothing", "distilled", "teacher"]
    for seed in range(10):
        random.Random(seed).shuffle(names)
        found = summarize_results(Path("run"), [result(name, 5) for name in names])
        assert (found.rows[0].name, found.rows[-1].name) == ("teacher", "distilled")
        assert [len(row.seconds.values) for row in (found.rows[0], found.rows[-1])] == [2, 2]


def test_summarize_results_leaves_out_a_metric_that_not_every_seed_has() -> None:
    results = [result("distilled", 5, agreement=0.9), result("distilled", 7)]
    row = summarize_results(Path("run"), results).rows[0]
    assert set(row.metrics) == {"errors", "accuracy"}
    assert row.cells()["agreement %"] == "-"
    assert row.cells()["errors"] == "6.0 ± 1.4"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(-1e3, 1e3))
def test_figure_spread_does_not_move_with_the_values(values: list[float], shift: float) -> None:
    before, after = Figure.of(values), Figure.of([value + shift for value in values])
    assert before.spread is not None
    assert after.spread == pytest.approx(before.spread, abs=1e-6)
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-6)


def test_summary_in_a_notebook_is_the_closing_table() -> None:
    shown = summary(teacher=67, labels=146, distilled=74)._repr_html_()
    assert shown.count("<tr>") == 4
    for text in ("student distilled", ">74<", ">99.26<", "Gap closed: 91 %"):
        assert text in shown


def test_summary_of_nothing_is_empty_html() -> None:
    assert summary()._repr_html_() == ""


@given(st.text(min_size=1), st.text())
def test_no_text_becomes_a_tag_or_an_attribute(name: str, cell: str) -> None:
    def page(name: str, cell: str) -> str:
        section = Section(name, [cell], rows=[{"a": name, "b": cell}])
        return rendered("study", title=name, about=[cell], unfinished=[cell], sections=[section])

    for sign in '<>"':
        assert page(name, cell).count(sign) == page("a", "b").count(sign)


def test_a_value_that_a_template_names_and_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'lines' is undefined"):
        rendered("table", rows=[])
