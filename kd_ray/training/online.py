"""Teachers that are run in every step: the cost that stored logits save."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kd_ray.batch import Batch, Feed


@dataclass(frozen=True)
class TaughtFeed:
    """Rows whose teacher logits are computed when a batch is drawn.

    Attributes:
        feed: the rows, with or without stored logits; its views are as many as it says.
        teachers: M models in evaluation mode on the rows' device, which take images normalized as
            the feed does it.
        precision: opens the context of a forward pass.
    """

    feed: Feed
    teachers: Sequence[nn.Module]
    precision: Callable[[], AbstractContextManager[object]]

    @property
    def rows(self) -> int:
        """The number N of rows."""
        return self.feed.rows

    def batch(self, order: Tensor, mine: slice, epoch: int) -> Batch:
        """This worker's part of the global batch of the rows `order`; see `batch.Feed`."""
        batch = self.feed.batch(order, mine, epoch)
        with torch.no_grad(), self.precision():
            logits = [teacher(batch.images).float() for teacher in self.teachers]
        return replace(batch, teacher_logits=torch.stack(logits, dim=1))
