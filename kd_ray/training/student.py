"""Student training on a transfer set: distilled, and the variants that stand beside it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kd_ray.batch import UNLABELLED, Batch, Feed, Part
from kd_ray.config import Augment, Objective, Recipe, StudentOptions, StudentTrain
from kd_ray.config.data import Hold
from kd_ray.datasets import Dataset, PackedImages, Split
from kd_ray.errors import ConfigError
from kd_ray.models import NewModel, new_model
from kd_ray.quant import calibrate_, quantize_
from kd_ray.training.batch_loss import BatchLoss
from kd_ray.training.epoch import TrainingEvent, autocast
from kd_ray.training.feed import TensorFeed, feed_of, taken
from kd_ray.training.loop import fit
from kd_ray.training.losses import Ensemble
from kd_ray.training.order import derived_seed
from kd_ray.training.progress import Training
from kd_ray.training.watch import watched
from kd_ray.training.workers import Worker
from kd_ray.transfer_set import Rows, TransferSet

CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class StudentFeeds:
    """Rows to learn from, rows to choose epochs by (or None), rows for the final figure."""

    train: TensorFeed
    validation: TensorFeed | None
    test: TensorFeed
    _held_out: "dict[float, StudentFeeds]" = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def members(self) -> int:
        """M."""
        assert self.train.logits is not None
        return self.train.logits.shape[2]

    def held(self, device: torch.device, hold: Hold) -> "StudentFeeds":
        """The same rows for models on a device; see `TensorFeed.held`."""
        train, test = (feed.held(device, hold) for feed in (self.train, self.test))
        return StudentFeeds(train, self.validation and self.validation.held(device, hold), test)


def new_student(student: StudentOptions, feeds: StudentFeeds, classes: int, seed: int) -> NewModel:
    """The student before training, on the CPU; a function of its options, rows, K and seed."""
    channels, height, width = feeds.train.pixels.shape[-3:]
    mean, std = feeds.train.mean.tolist(), feeds.train.std.tolist()
    made = _new(student, (channels, height, width), classes, seed, mean, std)
    if student.quantizer is not None:
        calibrate_(made.network, sample(feeds.train, CALIBRATION_ROWS).cpu())
    return made


def check_student(student: StudentOptions, dataset: Dataset) -> None:
    """Refuses a student that these images cannot make, so that nothing is trained for it.

    Raises:
        ConfigError: what `models.new_model` raises, or no layer takes the quantizer.
    """
    classes = len(dataset.class_names)
    _new(student, dataset.image_shape, classes, 0, dataset.mean, dataset.std)


def _new(
    student: StudentOptions,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> NewModel:
    made = new_model(
        student.model,
        shape=shape,
        classes=classes,
        seed=derived_seed(seed, "student weights"),
        mean=mean,
        std=std,
    )
    if student.quantizer is not None:
        quantize_(made.network, student.quantizer, shape)
    return made


def sample(feed: TensorFeed, rows: int) -> Tensor:
    """The first N images of a feed at most, `(N, C, H, W)` normalized; rows are of no order."""
    return feed.batch(torch.arange(min(rows, feed.rows)), slice(None), 1).images


def student_feeds(transfer_set: TransferSet, dataset: Dataset | None) -> StudentFeeds:
    """The rows of a transfer set joined with their pixels.

    They come from the dataset, whose fit the caller has checked, if the set has none. Of a split
    without logits the dataset has the labels, too.

    Raises:
        ConfigError: neither of the two has pixels.
    """
    plan = transfer_set.manifest.plan

    def joined(rows: Rows, split: Split | None) -> TensorFeed:
        if split is not None and not len(rows.index):
            return feed_of(split, plan.mean, plan.std)
        pixels: Tensor | PackedImages | None = rows.images
        if pixels is None and split is not None:
            # Where all of the split was labelled, nothing is copied.
            whole = len(rows.index) == len(split.images)
            pixels = split.images if whole else split.images_of(rows.index)
        if pixels is None:
            raise ConfigError(
                "transfer_set: a student needs pixels, but the set was written with "
                "include_images = false and no dataset is given; name one under [data]"
            )
        return TensorFeed(
            pixels=pixels,
            labels=rows.labels,
            index=rows.index,
            mean=torch.tensor(plan.mean, dtype=torch.float32),
            std=torch.tensor(plan.std, dtype=torch.float32),
            logits=rows.logits,
            recordings=None if split is None else split.recordings_of(rows.index),
        )

    train, validation, test = (
        joined(getattr(transfer_set, name), getattr(dataset, name) if dataset else None)
        for name in ("train", "validation", "test")
    )
    views = replace(
        train, views=plan.views, augment=Augment.model_validate(plan.augment), seed=plan.seed
    )
    return StudentFeeds(views, validation if validation.rows else None, test)


def held_out(feeds: StudentFeeds, share: float) -> StudentFeeds:
    """A share of the rows to learn from becomes the rows to choose epochs by, as plain images.

    The same rows for every student of a transfer set, so that variants and seeds are comparable;
    of recordings it is a share of whole ones. They are copied once for all that learn from `feeds`.
    """
    if share not in feeds._held_out:
        feeds._held_out[share] = _held_out(feeds, share)
    return feeds._held_out[share]


def _held_out(feeds: StudentFeeds, share: float) -> StudentFeeds:
    recordings = feeds.train.recordings
    rows = feeds.train.rows if recordings is None else recordings.count
    count = round(share * rows)
    if not count:
        return feeds
    draw = torch.Generator().manual_seed(derived_seed("hold-out", rows))
    order = torch.randperm(rows, generator=draw)
    if recordings is not None:
        held = torch.zeros(rows, dtype=torch.bool).index_fill(0, order[:count], True)
        frames = recordings.frames(held)
        order, count = torch.argsort((~frames).int(), stable=True), int(frames.sum())
    order = order.to(feeds.train.labels.device)
    chosen, rest = order[:count].sort().values, order[count:].sort().values
    validation = replace(taken(feeds.train, chosen), views=1)
    return replace(feeds, train=taken(feeds.train, rest), validation=validation)


@dataclass(frozen=True)
class TaughtFeed:
    """Rows whose teacher logits are computed when a batch is drawn: the cost that storing saves.

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

    def batches(
        self, seed: int, epoch: int, batch_size: int, first: int, part: Part
    ) -> Iterator[Batch]:
        """The batches of the rows, with the logits of their pixels; see `batch.Feed`."""
        for batch in self.feed.batches(seed, epoch, batch_size, first, part):
            with torch.no_grad(), self.precision():
                logits = [teacher(batch.images).float() for teacher in self.teachers]
            yield replace(batch, teacher_logits=torch.stack(logits, dim=1))


def rows_shown(
    feed: TensorFeed,
    student: StudentOptions,
    train: StudentTrain,
    teachers: Sequence[nn.Module],
    worker: Worker,
) -> Feed:
    """The rows as a student sees them: all stored views, fewer, or new ones that teachers label.

    A teacher that is run in every step is shown what a set with a view for each epoch would hold,
    numbered alike: the student differs from one of that set in nothing but the stored type.

    Raises:
        ConfigError: fewer views are stored than the student is to be shown.
    """
    views = student.views
    if student.teacher_in_every_step:
        fresh = replace(feed, views=train.epochs, logits=None)
        return TaughtFeed(fresh, teachers, lambda: autocast(train.precision, worker.device))
    if views is not None and isinstance(feed.views, int) and views > feed.views:
        raise ConfigError(
            f"student.views: the transfer set must have at least {views} views, but it has "
            f"{feed.views}; label one with transfer_set.views = {views}"
        )
    return feed if views is None else replace(feed, views=views)


def ensemble_of(objective: Objective, members: int) -> Ensemble:
    """How the M teachers of a transfer set are averaged, and which of them.

    Raises:
        ConfigError: a member that the set has not, or weights for another number of them.
    """
    wanted = objective.members
    if wanted is None and objective.member_weights is None:
        return Ensemble(objective.ensemble)
    chosen = wanted if isinstance(wanted, list) else list(range(wanted or members))
    if missing := [member for member in chosen if member >= members]:
        raise ConfigError(
            f"objective.members: must be among the transfer set's, 0 to {members - 1}, but member "
            f"{missing[0]} is not; name others, or label with more teachers"
        )
    given = objective.member_weights or [1.0] * len(chosen)
    if len(given) != len(chosen):
        raise ConfigError(
            f"objective.member_weights: must be one for each of the {len(chosen)} members, but "
            f"there are {len(given)}"
        )
    share = dict(zip(chosen, given, strict=True))
    weights = tuple(share.get(member, 0.0) / sum(given) for member in range(members))
    return Ensemble(objective.ensemble, weights)


def distill(
    training: Training,
    recipe: Recipe,
    seed: int,
    feeds: StudentFeeds,
    worker: Worker,
    teachers: Sequence[nn.Module] = (),
    fused: bool = False,
) -> Iterator[TrainingEvent]:
    """Trains one student; see `loop.fit` for what it yields and raises.

    Args:
        training: changed in place.
        recipe: of the student: its objective, options and which views it is shown.
        seed: of the student.
        feeds: see `StudentFeeds`; where `train.hold_out` asks for it, rows of the first become the
            second.
        worker: this process among the workers.
        teachers: of a student that has them run in every step.
        fused: whoever listens trains the epochs.
    """
    train = recipe.train
    ensemble = ensemble_of(recipe.objective, feeds.members)
    feeds = held_out(feeds, train.hold_out)
    if not recipe.objective.is_taught and not (feeds.train.labels != UNLABELLED).any():
        raise ConfigError(
            "student: must have labels to learn from where no soft term has a weight, but its rows "
            "have none; lower transfer_set.unlabelled, or raise objective.soft_weight"
        )
    shown = rows_shown(feeds.train, recipe.student, train, teachers, worker)
    loss = BatchLoss(recipe.objective, train.label_smoothing, ensemble)
    events = fit(
        training,
        shown,
        loss,
        train,
        # Of the seed alone: all variants draw the same order of rows, so they differ in their
        # recipes alone.
        seed=derived_seed(seed, "student"),
        worker=worker,
        validation=feeds.validation,
        ensemble=ensemble,
        fused=fused,
    )
    stored = shown if isinstance(shown, TensorFeed) else feeds.train
    yield from watched(events, training, stored, loss if stored is shown else None, train.epochs)
