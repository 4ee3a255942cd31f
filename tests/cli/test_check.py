"""What `kd-ray check` says of a transfer set before anything is done."""

import tomllib
from pathlib import Path

import pytest
from painted import pictures
from tiny import refused, tiny_file
from typer.testing import CliRunner

from kd_ray.cli import app


def checked(recipe: Path, *options: str) -> tuple[dict, list[str]]:
    """The recipe that is printed, and the comments below it."""
    answer = CliRunner().invoke(app, ["check", str(recipe), *options])
    assert answer.exit_code == 0, answer.output
    lines = [line[2:] for line in answer.stdout.splitlines() if line.startswith("# ")]
    return tomllib.loads(answer.stdout), lines


def test_check_prints_rows_and_bytes_for_several_views_and_the_time_of_labelling(tmp_path: Path):
    options = "transfer_set={ views = 3, augment = { shift = 1 } }"
    recipe, lines = checked(tiny_file(tmp_path, options))
    assert recipe["transfer_set"]["views"] == 3
    assert lines[0] == "transfer set: 169 training and 451 other images, 10 classes, 1 teacher"
    assert lines[1].split() == ["views", "rows", "float16", "float32"]
    rows = {int(line.split()[0]): line for line in lines[2:-1]}
    assert list(rows) == [1, 2, 3, 4, 8, 16, 64]
    assert rows[3].split()[1] == f"{3 * 169 + 451}"
    assert [views for views, line in rows.items() if "<-" in line] == [3]
    assert rows[3].endswith("<- transfer_set.views, float16")
    assert lines[-1].startswith("labelling: ")
    assert " images/s on " in lines[-1]


def test_check_names_compact_sizes_where_there_are_many_classes(tmp_path: Path):
    pictures(tmp_path / "pictures", classes=40, train=1, test=1)
    data = f"data={{ name = 'imagefolder', root = '{tmp_path / 'pictures'}', image_size = 8 }}"
    _, lines = checked(tiny_file(tmp_path, data))
    assert lines[1].split()[-2:] == ["compact", "compact-tenth"]


def test_check_refuses_what_the_data_cannot_give(tmp_path: Path):
    assert "'compact' is for 32 classes" in refused(
        "check", tiny_file(tmp_path, "transfer_set.dtype='compact'")
    )


@pytest.mark.parametrize("options", [(), ("--no-sizes",)])
def test_check_needs_no_data_and_downloads_none(tmp_path: Path, options: tuple[str, ...]):
    recipe, lines = checked(
        tiny_file(tmp_path, f"data={{ name = 'mnist', root = '{tmp_path}' }}"), *options
    )
    assert recipe["data"]["name"] == "mnist"
    known = [line for line in lines if "not known here, as the data is not: mnist: " in line]
    assert len(known) == (0 if options else 1)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml"}
