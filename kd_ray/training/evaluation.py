"""The figures of a model on all rows of a feed, whoever asks for them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_ray.errors import TrainingError
from kd_ray.training.feed import TensorFeed
from kd_ray.training.losses import MEAN_OF_ALL, Ensemble, soft_targets
from kd_ray.training.metrics import summarize, tally
from kd_ray.training.words import word_figures, word_sums
from kd_ray.training.workers import Worker, summed

EVALUATION_ROWS = 256


def evaluate(
    model: nn.Module, feed: TensorFeed, worker: Worker, ensemble: Ensemble = MEAN_OF_ALL
) -> dict[str, float]:
    """Figures of `metrics.summarize` over all rows of a feed, at T = 1, on plain images.

    Where the rows are frames of recordings, figures of `words.word_figures` are among them. In
    float32, whatever the model was trained in: what is measured is the model that is saved.

    Raises:
        TrainingError: the model's outputs are not finite.
    """
    model.eval()
    part = _part(feed, worker)
    nothing = torch.zeros(0, dtype=torch.int64, device=worker.device)
    total = tally(torch.zeros(0, 1, device=worker.device), nothing)  # a worker may have no rows
    heard: list[tuple[Tensor, Tensor | None]] = []
    with torch.inference_mode():
        rows = torch.arange(part.start, part.stop)
        for batch in feed.of(torch.split(rows, EVALUATION_ROWS), epoch=1):
            logits = model(batch.images).float()
            v = batch.teacher_logits
            teacher = None if v is None else soft_targets(v, 1.0, ensemble)
            total = total + tally(logits, batch.labels, teacher)
            if feed.recordings is not None:
                heard.append((logits, teacher))
        words = _words(heard, feed, part).to(worker.device)
    sums = summed(torch.cat([words, total]))
    figures = summarize(sums[len(words) :]) | word_figures(sums[: len(words)])
    if not all(map(math.isfinite, figures.values())):
        raise TrainingError(
            "evaluation: a model's outputs must be finite, but these are not; "
            "lower the learning rate or clip gradients (grad_clip), then train again"
        )
    return figures


def _part(feed: TensorFeed, worker: Worker) -> slice:
    """This worker's rows; of recordings, those of whole ones."""
    if feed.recordings is None:
        return worker.part_of(feed.rows)
    starts, mine = feed.recordings.starts, worker.part_of(feed.recordings.count)
    return slice(int(starts[mine.start]), int(starts[mine.stop]))


def _words(heard: Sequence[tuple[Tensor, Tensor | None]], feed: TensorFeed, part: slice) -> Tensor:
    """The `word_sums` of a worker's rows, for which `heard` has logits and teacher's beliefs."""
    if feed.recordings is None or not heard:
        return torch.zeros(4, dtype=torch.float64)
    logits = torch.cat([logits for logits, _ in heard])
    beliefs = [teacher for _, teacher in heard if teacher is not None]
    teacher = torch.cat(beliefs) if beliefs else None
    rows = torch.arange(part.start, part.stop)
    return word_sums(logits, feed.labels[part], teacher, feed.recordings.part(rows))
