"""Teacher training: hard labels, fresh random views in every epoch."""

from collections.abc import Iterator
from dataclasses import replace

from kd_ray.config import TeacherOptions
from kd_ray.datasets import Dataset
from kd_ray.models import NewModel, columns_of, new_model
from kd_ray.training.batch_loss import label_objective
from kd_ray.training.epoch import TrainingEvent
from kd_ray.training.feed import feed_of, labelled
from kd_ray.training.loop import fit
from kd_ray.training.order import derived_seed
from kd_ray.training.progress import Training
from kd_ray.training.workers import Worker


def new_teacher(options: TeacherOptions, dataset: Dataset, member: int) -> NewModel:
    """Member `member` of the ensemble before training, with its own model and seed."""
    return new_model(
        options.model_of(member),
        shape=dataset.image_shape,
        classes=len(dataset.class_names),
        seed=derived_seed(options.train.seed + member, "teacher weights"),
        mean=dataset.mean,
        std=dataset.std,
        columns=columns_of(options.columns, dataset.class_names),
    )


def teach(
    training: Training, options: TeacherOptions, dataset: Dataset, member: int, worker: Worker
) -> Iterator[TrainingEvent]:
    """Trains one member on labelled training rows; see `loop.fit` for what it yields and raises."""
    train = options.train
    seed = train.seed + member
    plain = labelled(feed_of(dataset.train, dataset.mean, dataset.std))
    feed = replace(plain, views="fresh", augment=train.augment, seed=seed)
    validation = feed_of(dataset.validation, dataset.mean, dataset.std)
    return fit(
        training,
        feed.held(worker.device, dataset.hold),
        label_objective(train.label_smoothing),
        train,
        seed=derived_seed(seed, "teacher"),
        worker=worker,
        validation=validation.held(worker.device, dataset.hold) if validation.rows else None,
    )
