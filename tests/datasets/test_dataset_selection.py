import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.batch import UNLABELLED
from kd_ray.datasets.selection import (
    KNOWN,
    choose_rows,
    hidden_labels,
    sample_of_each_class,
    validation_rows,
)
from kd_ray.errors import ConfigError, UnknownNameError

NAMES = ("cat", "dog", "emu")
LABELS = torch.tensor([2, 0, 1, 0] * 3 + [0, 0, 1] * 37 + [0] * 20)
seeds = st.integers(0, 2**31 - 1)


@settings(deadline=None)
@given(st.floats(0.001, 1), seeds)
def test_choose_rows_keeps_the_share_of_every_class_and_at_least_one(
    fraction: float, seed: int
) -> None:
    rows = choose_rows(LABELS, NAMES, fraction=fraction, seed=seed)
    assert torch.equal(rows, rows.unique())  # ascending, none twice
    for number, kept in enumerate(torch.bincount(LABELS[rows], minlength=3).tolist()):
        size = int((number == LABELS).sum())
        assert kept >= 1
        assert abs(kept - fraction * size) <= 0.5 + 1e-9 or kept == 1


@settings(deadline=None)
@given(st.floats(0.001, 1), st.floats(0.001, 1), seeds)
def test_choose_rows_of_a_smaller_share_are_among_those_of_a_larger(
    one: float, other: float, seed: int
) -> None:
    small = choose_rows(LABELS, NAMES, fraction=min(one, other), seed=seed)
    large = choose_rows(LABELS, NAMES, fraction=max(one, other), seed=seed)
    assert bool(torch.isin(small, large).all())


def test_choose_rows_of_everything_is_every_row() -> None:
    assert torch.equal(choose_rows(LABELS, NAMES), torch.arange(143))


def test_choose_rows_depends_on_the_seed_only() -> None:
    first = choose_rows(LABELS, NAMES, fraction=0.5, seed=1)
    assert torch.equal(first, choose_rows(LABELS, NAMES, fraction=0.5, seed=1))
    assert not torch.equal(first, choose_rows(LABELS, NAMES, fraction=0.5, seed=2))


def test_choose_rows_takes_classes_by_name_in_any_order() -> None:
    rows = choose_rows(LABELS, NAMES, classes=["emu", "cat"])
    assert torch.equal(rows, (LABELS != 1).nonzero().flatten())


def test_choose_rows_refuses_an_unknown_class() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown class 'dgo'; did you mean 'dog'\?"):
        choose_rows(LABELS, NAMES, classes=["cat", "dgo"])


def test_choose_rows_refuses_classes_where_nobody_knows_some_rows_class() -> None:
    some = LABELS.masked_fill(LABELS == 1, UNLABELLED)
    with pytest.raises(ConfigError, match="classes: chooses images by their labels"):
        choose_rows(some, NAMES, classes=["emu"])


def test_choose_rows_of_no_rows_is_none() -> None:
    assert len(choose_rows(LABELS[:0], NAMES, fraction=0.5)) == 0


def test_choose_rows_takes_the_same_share_of_rows_without_a_label() -> None:
    some = LABELS.masked_fill(LABELS == 1, UNLABELLED)
    rows = choose_rows(some, NAMES, fraction=0.5)
    assert int((some[rows] == UNLABELLED).sum()) == int((LABELS == 1).sum() * 0.5 + 0.5)


@settings(deadline=None)
@given(st.floats(0.001, 1), st.floats(0.001, 1), seeds)
def test_a_sample_has_the_share_of_every_class_and_a_larger_one_has_all_of_it(
    one: float, other: float, seed: int
) -> None:
    few, more = (sample_of_each_class(LABELS, share, seed, KNOWN) for share in sorted((one, other)))
    for number, size in enumerate(torch.bincount(LABELS).tolist()):
        assert int(few[number == LABELS].sum()) == max(1, int(size * min(one, other) + 0.5))
    assert bool(more[few].all())


@settings(deadline=None)
@given(st.floats(0, 1), seeds)
def test_hidden_labels_hides_exactly_the_share_and_nothing_else(share: float, seed: int) -> None:
    hidden = hidden_labels(LABELS, share, seed)
    gone = hidden == UNLABELLED
    assert int(gone.sum()) == int(143 * share + 0.5)
    assert torch.equal(hidden[~gone], LABELS[~gone])


def test_hidden_labels_depends_on_the_seed_and_leaves_its_argument_alone() -> None:
    before = LABELS.clone()
    assert torch.equal(hidden_labels(LABELS, 0.5, 1), hidden_labels(LABELS, 0.5, 1))
    assert not torch.equal(hidden_labels(LABELS, 0.5, 1), hidden_labels(LABELS, 0.5, 2))
    assert torch.equal(LABELS, before)


@settings(deadline=None)
@given(st.integers(0, 142), seeds)
def test_validation_rows_are_exactly_so_many_and_spread_over_the_classes(
    rows: int, seed: int
) -> None:
    chosen = validation_rows(LABELS, rows, seed)
    assert int(chosen.sum()) == rows
    for number in range(3):
        of_class = number == LABELS
        assert abs(int((chosen & of_class).sum()) - rows * int(of_class.sum()) / 143) <= 1.5


def test_validation_rows_have_labels() -> None:
    some = LABELS.masked_fill(LABELS == 1, UNLABELLED)
    chosen = some[validation_rows(some, 20, 0)]
    assert len(chosen) == 20
    assert (chosen != UNLABELLED).all()


def test_validation_rows_differ_with_the_seed() -> None:
    assert not torch.equal(validation_rows(LABELS, 50, 1), validation_rows(LABELS, 50, 2))


@pytest.mark.parametrize("rows", [143, 1000])
def test_validation_rows_leave_at_least_one_training_row(rows: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.validation: .* 143 training .*got {rows}"):
        validation_rows(LABELS, rows, 0)
