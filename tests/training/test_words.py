"""Whole recordings: the word whose states explain the frames best."""

from itertools import pairwise, product

import pytest
import torch
from tiny import ALONE
from torch import Tensor, nn

from kd_ray.batch import UNLABELLED
from kd_ray.datasets.recordings import Recordings, joined
from kd_ray.training import evaluation
from kd_ray.training.evaluation import evaluate
from kd_ray.training.feed import TensorFeed
from kd_ray.training.words import best_words, word_figures, word_sums
from kd_ray.training.workers import Worker

DRAW = torch.Generator().manual_seed(0)


def by_hand(scores: Tensor, states: int) -> int:
    """The best word of one recording, by trying every path."""
    frames, classes = scores.shape
    best = {}
    for word in range(classes // states):
        mine = scores[:, word * states : (word + 1) * states]
        paths = [
            path
            for path in product(range(states), repeat=frames)
            if path[0] == 0
            and path[-1] == min(frames, states) - 1
            and all(0 <= later - earlier <= 1 for earlier, later in pairwise(path))
        ]
        best[word] = max(sum(float(mine[t, s]) for t, s in enumerate(path)) for path in paths)
    return max(best, key=lambda word: best[word])


def test_best_words_are_those_of_trying_every_path() -> None:
    recordings = joined([3, 6, 1, 5, 2, 4], 3)
    scores = torch.randn(21, 12, generator=DRAW).log_softmax(1)
    parts = scores.double().split(recordings.lengths.tolist())
    assert best_words(scores, recordings).tolist() == [by_hand(part, 3) for part in parts]


def test_best_word_needs_its_states_in_order() -> None:
    scores = torch.tensor([[0, 9, 1, 0], [0, 9, 1, 0], [9, 0, 0, 1], [9, 0, 0, 1]]).double()
    assert best_words(scores, joined([4], 2)).tolist() == [0]
    scores[:, 2:] *= 12  # the other word's states are less sure than 9 of 12, but in order
    assert best_words(scores, joined([4], 2)).tolist() == [1]


def test_word_sums_leave_out_recordings_without_a_label() -> None:
    recordings, logits = joined([2, 2], 2), torch.eye(4)[[0, 1, 2, 3]]
    labels = torch.tensor([2, 3, UNLABELLED, UNLABELLED])
    assert word_sums(logits, labels, None, recordings).tolist() == [1, 1, 0, 0]
    figures = word_figures(word_sums(logits, labels, logits.softmax(1), recordings))
    assert figures == {
        "word_errors": 1,
        "word_error_rate": 1.0,
        "teacher_word_errors": 1,
        "teacher_word_error_rate": 1.0,
    }


def spoken_feed() -> TensorFeed:
    lengths = [4, 7, 5, 6, 9]
    rows = sum(lengths)
    recordings: Recordings = joined(lengths, 2)
    words = torch.randint(3, (5,), generator=DRAW)
    return TensorFeed(
        pixels=torch.randn(rows, 3, 1, 2, generator=DRAW).half(),
        labels=(2 * words).repeat_interleave(recordings.lengths),
        index=torch.arange(rows),
        mean=torch.zeros(3),
        std=torch.ones(3),
        logits=torch.randn(rows, 1, 2, 6, generator=DRAW),
        recordings=recordings,
    )


def test_evaluate_counts_words_whatever_the_batches_and_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed = spoken_feed()
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6))
    whole = evaluate(model, feed, ALONE)
    assert {"word_errors", "word_error_rate", "teacher_word_error_rate"} <= whole.keys()
    monkeypatch.setattr(evaluation, "EVALUATION_ROWS", 3)
    assert evaluate(model, feed, ALONE)["word_errors"] == whole["word_errors"]
    parts = [evaluate(model, feed, Worker(rank, 3, ALONE.device, 1)) for rank in range(3)]
    assert sum(part["word_errors"] for part in parts) == whole["word_errors"]
    assert sum(part["rows"] for part in parts) == feed.rows


def test_pictures_have_no_words() -> None:
    feed = spoken_feed()
    bare = TensorFeed(feed.pixels, feed.labels, feed.index, feed.mean, feed.std)
    assert "word_errors" not in evaluate(nn.Sequential(nn.Flatten(), nn.Linear(6, 6)), bare, ALONE)


def test_floats_are_normalized_as_they_are() -> None:
    feed = spoken_feed()
    batch = feed.batch(torch.arange(4), slice(None), 1)
    torch.testing.assert_close(batch.images, feed.pixels[:4].float())
