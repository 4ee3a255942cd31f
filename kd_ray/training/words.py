"""Whole recordings: which word explains the frames best, and how often it is not the one said.

A word's states follow one another from left to right (Rabiner 1989, section III): the best path
of each word is sought by dynamic programming, and the word whose path has the highest score is
recognized. A frame's score is its log posterior, not divided by the prior of the state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kd_ray.batch import UNLABELLED
from kd_ray.datasets import Recordings

WORD_FIGURES = (
    *("word_errors", "word_error_rate"),
    *("teacher_word_errors", "teacher_word_error_rate"),
)
"""Names that `word_figures` may return."""

SMALLEST = torch.finfo(torch.float32).tiny
"""For a belief that was rounded to nothing, so that one frame does not rule a word out."""


def best_words(log_posteriors: Tensor, recordings: Recordings) -> Tensor:
    """The word of each recording whose states, in order, explain its frames best.

    A path begins in a word's first state, stays or goes on to the next one in each frame, and ends
    in the last one. Of a recording with fewer frames than states it ends wherever it has come to.

    Args:
        log_posteriors: of the states, `(N, K)`, K being words * S.
        recordings: R of them.

    Returns:
        `(R,)` int64.
    """
    states, lengths = recordings.states, recordings.lengths
    frames, classes = log_posteriors.shape
    scores = log_posteriors.double().view(frames, classes // states, states)
    parts = torch.split(scores, lengths.tolist())
    scores = pad_sequence(list(parts))  # (frames of the longest one, R, words, S)
    paths = torch.full_like(scores[0], -torch.inf)
    paths[..., 0] = scores[0, ..., 0]
    for frame, score in enumerate(scores[1:], 1):
        entered = F.pad(paths[..., :-1], (1, 0), value=-torch.inf)
        lasts = (frame < lengths)[:, None, None]
        paths = (torch.maximum(paths, entered) + score).where(lasts, paths)
    last = lengths.clamp(max=states) - 1
    return paths.gather(2, last[:, None, None].expand(-1, paths.shape[1], 1))[..., 0].argmax(1)


def word_sums(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, recordings: Recordings
) -> Tensor:
    """Sums over recordings, which add up over workers.

    Args:
        logits: student logits z, `(N, K)`.
        labels: `(N,)` int64; recordings that are not labelled are left out.
        teacher: its distribution at T = 1, `(N, K)`, or None where there is no teacher.
        recordings: of which the rows are frames.

    Returns:
        `(4,)` float64: recordings, wrong ones, those seen by a teacher, those it has wrong.
    """
    words = recordings.words(labels.cpu())
    known = words != UNLABELLED

    def counts(log_posteriors: Tensor) -> list[Tensor]:
        wrong = (best_words(log_posteriors.cpu(), recordings) != words) & known
        return [known.sum(), wrong.sum()]

    mine = counts(logits.log_softmax(dim=1))
    none = [torch.zeros_like(count) for count in mine]
    theirs = none if teacher is None else counts(teacher.clamp(min=SMALLEST).log())
    return torch.stack([*mine, *theirs]).double()


def word_figures(sums: Tensor) -> dict[str, float]:
    """The figures of `word_sums`.

    Returns:
        `word_errors` (count) and `word_error_rate` (share); where there is a teacher its own
        `teacher_word_errors` and `teacher_word_error_rate`. Keys without recordings are absent.
    """
    figures: dict[str, float] = {}
    for of, (known, wrong) in zip(("", "teacher_"), sums.view(2, 2).tolist(), strict=True):
        if known:
            figures[f"{of}word_errors"] = int(wrong)
            figures[f"{of}word_error_rate"] = wrong / known
    return figures
