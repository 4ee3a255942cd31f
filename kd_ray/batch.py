"""The batch that a training step sees, and the letters that shapes are written in.

| letter | what |
|---|---|
| N | images in a batch, or rows of a set |
| V | views of an image in a transfer set; view 0 is the plain image |
| K | classes |
| M | teachers (members of an ensemble) |
| C, H, W | channels, height, width |
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

UNLABELLED = -1


@dataclass(frozen=True)
class Batch:
    """This worker's part of one global batch.

    Attributes:
        images: `(N, C, H, W)` float32, normalized.
        labels: `(N,)` int64; `UNLABELLED` (-1) where the label is hidden.
        teacher_logits: `(N, M, K)` float32 raw teacher logits v, or None where there is no teacher.
        global_rows: rows of the whole batch over all workers.
        global_labelled: labelled rows of the whole batch over all workers.
    """

    images: Tensor
    labels: Tensor
    teacher_logits: Tensor | None
    global_rows: int
    global_labelled: int


class Feed(Protocol):
    """Rows that a loop can draw batches from; they live on the device as tensors."""

    @property
    def rows(self) -> int:
        """How many rows one epoch has."""

    def batch(self, order: Tensor, mine: slice, epoch: int) -> Batch:
        """The batch of the rows `order` (`(N,)` int64), restricted to this worker's slice.

        Args:
            order: row numbers of the global batch, `(N,)` int64 on the CPU.
            mine: this worker's part of `order`.
            epoch: 1-based epoch number; it chooses the view.
        """
