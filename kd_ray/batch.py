"""The batch that a training step sees, and the letters that shapes are written in.

| letter | what |
|---|---|
| N | images in a batch, or rows of a set |
| V | views of an image in a transfer set; view 0 is the plain image |
| K | classes |
| M | teachers (members of an ensemble) |
| C, H, W | channels, height, width |
"""

from collections.abc import Callable, Iterator
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


Part = Callable[[int], slice]
"""The rows of a global batch that are this worker's, by how many there are."""


class Feed(Protocol):
    """Rows to learn from. The feed alone knows where they are, and in which order they come."""

    @property
    def rows(self) -> int:
        """How many rows one epoch has."""

    def batches(
        self, seed: int, epoch: int, batch_size: int, first: int, part: Part
    ) -> Iterator[Batch]:
        """The batches of an epoch, a pure function of the arguments.

        The rows of a global batch do not depend on `part`, and so not on the number of workers.

        Args:
            seed: of the order of rows.
            epoch: 1-based; it chooses the order and the view.
            batch_size: rows of a global batch at most; see `training.order.batch_bounds`.
            first: the step, from 0, of the first batch.
            part: this worker's part of a global batch.
        """
