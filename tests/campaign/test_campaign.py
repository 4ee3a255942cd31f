"""The campaign's own parts: what it draws, and how it judges."""

import random
from pathlib import Path

import pytest
from damage import Case, inline
from forked import Command
from inputs import verdict
from kills import drawn, moments, stage
from spoiled import MAKERS, make

TRACEBACK = "Traceback (most recent call last):\n"
SENTENCE = "kd-ray: tiny.toml: train.lr: input should be greater than 0, but got 0\n"


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"artefact"}))
def test_a_seed_makes_the_same_case_again(tmp_path: Path, kind: str):
    made = []
    for place in ("here", "there"):
        folder = tmp_path / place / "case"
        folder.mkdir(parents=True)
        case = make(7, 3, folder, [kind])
        files = {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.[tp][on][mg]*")
        }
        made.append((case.about, case.arguments, files))
    assert made[0] == made[1]
    assert make(7, 4, tmp_path / "here" / "case", [kind]).about != made[0][0]


def test_moments_are_lines_without_figures_and_drawn_in_order_from_different_stages():
    output = "".join(
        f"{title}: epoch {number}/9  loss 2.3  {number * 70} images/s\n"
        for title in ("teacher 0", "student labels, seed 0", "student distilled, seed 0")
        for number in range(1, 10)
    )
    names = moments(f"{output}tiny: test split\nmodel  seeds\n")
    assert names[:2] == ["", "teacher 0: epoch 1/9"]
    assert len(names) == 1 + 27
    for seed in range(20):
        chosen = drawn(names, random.Random(seed))
        assert chosen == sorted(chosen, key=names.index)
        assert len({stage(name) for name in chosen}) == len(chosen) == 3


@pytest.mark.parametrize(
    ("status", "output", "problem", "expected"),
    [
        (2, SENTENCE, "", "refused"),
        (2, "", "", "no sentence"),
        (2, SENTENCE + "9" * 5000, "", "no sentence"),
        (0, "In runs/tiny\n", "", "accepted"),
        (0, "In runs/tiny\n", "128 was read as 255", "misread"),
        (1, "train row 3: the logits stored there are not right\n", "", "refused"),
        (1, TRACEBACK + "KeyError: 'x'\n", "", "traceback"),
        (2, TRACEBACK + SENTENCE, "", "traceback"),
        (-11, "", "", "traceback"),
        (None, "", "", "hang"),
        (None, "teacher 0: epoch 1/1000000000  loss 2.3\n", "", "accepted"),
    ],
)
def test_an_answer_is_judged_by_its_status_and_its_words(
    tmp_path: Path, status: int | None, output: str, problem: str, expected: str
):
    log = tmp_path / "log"
    log.write_text(output)
    case = Case("recipe", "", [], lambda: problem)
    assert verdict(Command(0, log, set(), status), case) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a.b": [1, 0.5, "x"]}, '{ "a.b" = [1, 0.5, "x"] }'),
        ({"a": None, "b": True}, '{ "b" = true }'),
        (float("inf"), "inf"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_a_value_is_written_as_toml_in_one_line(value: object, text: str):
    assert inline(value) == text
