import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_ray.cli.tables import LEAVING, closing_table, facts
from kd_ray.report.summary import Summary, summarize_results
from kd_ray.result import Result

VARIANTS = ("labels", "smoothing", "softened-labels", "distilled")
HEADINGS = ("model", "accuracy %", "errors", "agreement %", "parameters", "seconds")


def result(name: str, errors: int, parameters: int, bits: int = 32) -> Result:
    metrics = {"accuracy": 1 - errors / 10_000, "errors": errors, "calibration_error": 0.0123}
    if name != "teacher":
        metrics["agreement"] = 0.98
    return Result(
        stage="teach" if name == "teacher" else "distill",
        name="mnist",
        title=name,
        variant=name,
        metrics=metrics,
        parameters=parameters,
        seconds=1234.5,
        images_per_s=1e5,
        packed_bytes=parameters * bits // 8,
        bit_operations=parameters * bits * bits,
    )


def summary(*variants: str, seeds: int = 3, name: str = "mnist", bits: int = 32) -> Summary:
    results = [result("teacher", 67, 2_395_210)]
    results += [
        result(variant, 146 + 9 * seed, 1_275_210, bits)
        for variant in variants
        for seed in range(seeds)
    ]
    return summarize_results(Path("runs") / name, results)


def printed(table: Any, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", range(60, 161, 5))
@pytest.mark.parametrize("variants", [("labels", "distilled"), VARIANTS])
@pytest.mark.parametrize("bits", [2, 32])
def test_closing_table_cuts_and_wraps_nothing(
    variants: tuple[str, ...], width: int, bits: int
) -> None:
    shown = summary(*variants, bits=bits)
    lines = printed(closing_table(shown, width), width)
    assert len(lines) == 3 + len(shown.rows)  # title, headings, rule, a line for each row
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width


def test_closing_table_has_what_matters_at_80_columns_and_all_at_120() -> None:
    shown = summary(*VARIANTS)
    heads = printed(closing_table(shown, 80), 80)[1]
    assert all(heading in heads for heading in HEADINGS)
    heads = printed(closing_table(shown, 120), 120)[1]
    everything = {*HEADINGS, *LEAVING} - {"size", "bit operations"}
    assert all(heading in heads for heading in everything)
    assert not any(heading in heads for heading in ("size", "bit operations"))


def test_closing_table_of_low_bit_students_has_their_size_at_80_columns_and_all_at_140() -> None:
    shown = summary(*VARIANTS, bits=2)
    lines = printed(closing_table(shown, 80), 80)
    assert "size" in lines[1]
    assert "318.8 kB" in lines[4]
    assert "9.6 MB" in lines[3]
    lines = printed(closing_table(shown, 140), 140)
    assert all(heading in lines[1] for heading in (*HEADINGS, *LEAVING))
    assert "5.1 M" in lines[4]


def test_closing_table_grows_with_the_terminal() -> None:
    shown = summary(*VARIANTS)
    columns = [len(closing_table(shown, width).columns) for width in range(60, 160)]
    assert columns == sorted(columns)
    assert columns[-1] == 8


def test_closing_table_says_how_many_seeds_its_figures_are_of() -> None:
    def title(shown: Summary) -> str:
        return printed(closing_table(shown, 80), 80)[0]

    assert title(summary("labels", "distilled")) == (
        "mnist: test split, mean ± spread over 3 seeds"
    )
    assert title(summary("labels", seeds=1)) == "mnist: test split"
    uneven = summary("labels").results + summary("distilled", seeds=2).results[1:]
    assert title(summarize_results(Path("mnist"), uneven)).endswith("over 2 to 3 seeds")


def test_tables_print_brackets_as_they_are() -> None:
    lines = printed(closing_table(summary("labels", name="[red]x"), 80), 80)
    assert lines[0].startswith("[red]x: ")
    lines = printed(facts("run [/a]", {"classes [b]": "[/c], [d]"}), 80)
    assert [line.strip() for line in lines] == ["run [/a]", "classes [b]  [/c], [d]"]
