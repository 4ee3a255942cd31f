import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import normal
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.training.metrics import summarize, tally

Z = normal(40, 5)
Q = normal(40, 5, seed=1).softmax(dim=-1)
Y = torch.arange(40) % 5


def confident(share: float, right: int, rows: int) -> tuple[Tensor, Tensor]:
    """Rows of two classes whose top-1 is class 0 with mass `share`; `right` of them are."""
    logits = torch.tensor([share, 1 - share]).log().repeat(rows, 1)
    return logits, (torch.arange(rows) >= right).long()


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=3), st.sets(st.integers(0, 39)))
def test_tally_adds_up_over_any_split_of_the_rows(cuts: list[int], hidden: set[int]):
    labels = Y.clone()
    labels[sorted(hidden)] = UNLABELLED
    edges = [0, *sorted(cuts), 40]
    parts = [tally(Z[a:b], labels[a:b], Q[a:b]) for a, b in pairwise(edges)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), tally(Z, labels, Q))


def test_tally_has_the_same_length_with_and_without_a_teacher_and_for_no_rows():
    assert tally(Z, Y).shape == tally(Z, Y, Q).shape == tally(Z[:0], Y[:0]).shape
    assert (tally(Z[:0], Y[:0], Q[:0]) == 0).all()
    assert tally(Z, Y).dtype == torch.float64


def test_summarize_counts_errors_and_the_mean_loss():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    figures = summarize(tally(logits, torch.tensor([0, 1, 1, 1])))
    low, high = math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))
    assert figures["rows"] == 4
    assert figures["accuracy"] == 0.75
    assert figures["errors"] == 1
    assert figures["loss"] == pytest.approx((3 * low + high) / 4)
    assert "agreement" not in figures
    assert "divergence" not in figures


def test_summarize_gives_a_tie_to_the_first_class():
    figures = summarize(tally(torch.zeros(2, 3), torch.tensor([0, 1])))
    assert figures["accuracy"] == 0.5


def test_summarize_agrees_with_the_losses_about_the_teacher():
    figures = summarize(tally(Z, Y, Q))
    assert figures["agreement"] == (Q.argmax(-1) == Z.argmax(-1)).double().mean()
    assert figures["divergence"] == pytest.approx(
        float((Q * (Q.log() - Z.log_softmax(dim=-1))).sum(dim=-1).mean())
    )


def test_summarize_of_the_teacher_itself_is_full_agreement_and_no_divergence():
    figures = summarize(tally(Z, Y, Z.softmax(dim=-1)))
    assert figures["agreement"] == 1
    assert figures["divergence"] == pytest.approx(0, abs=1e-6)


def test_summarize_counts_unlabelled_rows_for_agreement_but_not_for_accuracy():
    labels = Y.clone()
    labels[10:] = UNLABELLED
    figures, labelled = summarize(tally(Z, labels, Q)), summarize(tally(Z[:10], Y[:10], Q[:10]))
    assert figures["rows"] == 40
    for key in ("accuracy", "errors", "loss", "calibration_error"):
        assert figures[key] == pytest.approx(labelled[key])
    every = summarize(tally(Z, Y, Q))
    assert figures["agreement"] == every["agreement"]
    assert figures["divergence"] == every["divergence"]


def test_summarize_leaves_out_figures_that_no_row_speaks_for():
    nobody = torch.full((40,), UNLABELLED)
    assert set(summarize(tally(Z, nobody, Q))) == {"rows", "agreement", "divergence"}


def test_summarize_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        summarize(tally(Z[:0], Y[:0]))


def test_summarize_of_foreign_sums_is_refused():
    with pytest.raises(ValueError, match="tally"):
        summarize(torch.ones(3))


def test_calibration_error_is_zero_where_confidence_is_accuracy_in_every_bin():
    surer, right = confident(0.9, 90, 100), confident(0.6, 60, 100)
    logits = torch.cat([surer[0], right[0]])
    labels = torch.cat([surer[1], right[1]])
    figures = summarize(tally(logits, labels))
    assert figures["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert figures["accuracy"] == 0.75


@pytest.mark.parametrize(("unsure", "sure"), [(0.6, 0.9), (0.9, 0.99)])
def test_calibration_error_is_the_gap_weighted_over_bins(unsure: float, sure: float):
    under, over = confident(unsure, 95, 100), confident(sure, 50, 100)
    logits, labels = torch.cat([under[0], over[0]]), torch.cat([under[1], over[1]])
    # One bin is under and one over confident: their gaps must not cancel.
    error = summarize(tally(logits, labels))["calibration_error"]
    assert error == pytest.approx((0.95 - unsure + sure - 0.5) / 2, abs=1e-6)


def test_calibration_error_puts_full_confidence_into_the_last_bin():
    logits = torch.tensor([[1e4, 0.0]])
    assert summarize(tally(logits, torch.tensor([0])))["calibration_error"] == 0
    assert summarize(tally(logits, torch.tensor([1])))["calibration_error"] == 1


@settings(deadline=None)
@given(st.floats(0.1, 10))
def test_calibration_error_is_guos_sum_over_fifteen_half_open_bins(sharpness: float):
    confidence, top = (sharpness * Z).softmax(dim=-1).max(dim=-1)
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            accuracy = float((top == Y)[inside].double().mean())
            gap = abs(accuracy - float(confidence[inside].double().mean()))
            expected += gap * float(inside.double().mean())
    found = summarize(tally(sharpness * Z, Y))["calibration_error"]
    assert found == pytest.approx(expected, abs=1e-6)
