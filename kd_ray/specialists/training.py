"""Training a specialist: half of its images are of its classes, half are drawn from the rest."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED, Batch, Part
from kd_ray.config import TeacherTrain
from kd_ray.datasets import Dataset, Split
from kd_ray.errors import ConfigError
from kd_ray.models.dustbin import Specialist, special_labels
from kd_ray.training.batch_loss import label_objective
from kd_ray.training.epoch import TrainingEvent
from kd_ray.training.feed import TensorFeed, feed_of
from kd_ray.training.loop import fit
from kd_ray.training.order import batch_bounds, derived_seed, shuffled
from kd_ray.training.progress import Training
from kd_ray.training.saved_model import SavedModel
from kd_ray.training.workers import Worker


@dataclass(frozen=True)
class SpecialFeed:
    """An epoch of a specialist: every special row once, and as many rows of other classes.

    The others are drawn anew for each epoch, without repetition until all were drawn, as a pure
    function of seed and epoch: a training that goes on draws what it would have drawn.

    Attributes:
        feed: all rows, with labels among the specialist's outputs.
        dustbin: the label of all other classes.
        seed: seed of the draws.
    """

    feed: TensorFeed
    dustbin: int
    seed: int

    @cached_property
    def special(self) -> Tensor:
        """`(n,)` int64 numbers of the special rows, on the CPU."""
        labels = self.feed.labels.cpu()
        return ((labels != self.dustbin) & (labels != UNLABELLED)).nonzero().flatten()

    @cached_property
    def rest(self) -> Tensor:
        """`(r,)` int64 numbers of the other rows, on the CPU."""
        return (self.feed.labels.cpu() == self.dustbin).nonzero().flatten()

    @property
    def rows(self) -> int:
        """2n."""
        return 2 * len(self.special)

    @property
    def correction(self) -> float:
        """Log of how much too often special rows are shown, in nats: log(r / n)."""
        return math.log(len(self.rest) / len(self.special))

    def batches(
        self, seed: int, epoch: int, batch_size: int, first: int, part: Part
    ) -> Iterator[Batch]:
        """The rows that the epoch draws, shuffled; see `batch.Feed`."""
        order = self.drawn(epoch)[shuffled(self.rows, seed, epoch)]
        bounds = batch_bounds(self.rows, batch_size)[first:]
        return self.feed.of((order[start:stop] for start, stop in bounds), epoch, part)

    def drawn(self, epoch: int) -> Tensor:
        """Numbers of the 2n rows of an epoch, special ones first."""
        return torch.cat([self.special, *self._others(epoch)])

    def _others(self, epoch: int) -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(derived_seed(self.seed, "rest", epoch))
        missing = len(self.special)
        while missing > 0:
            some = self.rest[torch.randperm(len(self.rest), generator=draw)[:missing]]
            missing -= len(some)
            yield some


def special_feed(split: Split, generalist: SavedModel, special: tuple[int, ...]) -> TensorFeed:
    """All plain images of a split, with labels among a specialist's outputs."""
    feed = feed_of(split, generalist.meta.input.mean, generalist.meta.input.std)
    return replace(feed, labels=special_labels(feed.labels, special), recordings=None)


def training_feed(
    dataset: Dataset,
    generalist: SavedModel,
    special: tuple[int, ...],
    options: TeacherTrain,
    number: int,
) -> SpecialFeed:
    """What specialist `number` learns from: fresh random views, like the teacher's.

    Raises:
        ConfigError: there are no training images of its classes, or none of any other.
    """
    if not isinstance(dataset.train.images, Tensor):
        raise ConfigError(
            f"specialist {number}: draws its rows from all over the training split, which must be "
            "in memory for that, but it is streamed; set data.hold to host, or leave [specialists] "
            "out"
        )
    seed = options.seed + number
    plain = special_feed(dataset.train, generalist, special)
    feed = replace(plain, views="fresh", augment=options.augment, seed=seed)
    found = SpecialFeed(feed, len(special), derived_seed(seed, "specialist"))
    if not len(found.special) or not len(found.rest):
        names = ", ".join(dataset.class_names[place] for place in special)
        raise ConfigError(
            f"specialist {number}: needs training images of its classes and of others, but there "
            f"are {len(found.special)} of {names} and {len(found.rest)} of the rest; raise "
            "data.fraction or change [specialists]"
        )
    return found


def new_specialist(
    generalist: SavedModel, special: tuple[int, ...], correction: float
) -> Specialist:
    """A specialist before training: the generalist's weights, and its beliefs but for the dustbin.

    The generalist's network becomes part of it. For `correction`, see `SpecialFeed`; it is added to
    the dustbin's logit in evaluation.
    """
    model = Specialist(generalist.model, special, len(generalist.meta.class_names))
    model.correction.fill_(correction)
    return model


def specialize(
    training: Training,
    feed: SpecialFeed,
    options: TeacherTrain,
    number: int,
    worker: Worker,
    validation: TensorFeed | None,
) -> Iterator[TrainingEvent]:
    """Trains specialist `number` on hard labels; see `loop.fit` for what it yields and raises."""
    mine = replace(feed, feed=feed.feed.to(worker.device))
    objective = label_objective(options.label_smoothing)
    seed = derived_seed(options.seed + number, "specialist")
    return fit(training, mine, objective, options, seed=seed, worker=worker, validation=validation)
