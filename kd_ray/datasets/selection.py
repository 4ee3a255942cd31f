"""Choosing rows: classes by name, shares by seed, a validation split, hidden labels.

Row numbers in, row numbers out; no pixels are touched here. Each choice has a stream of draws of
its own, so the same seed may serve all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import suggestion
from kd_ray.config import DataOptions
from kd_ray.datasets.counter_random import hashed
from kd_ray.datasets.dataset import Dataset, Split
from kd_ray.datasets.recordings import Recordings
from kd_ray.errors import ConfigError, DataError, UnknownNameError

# What a sample is for; draws are numbered apart from those of the views.
TEST, VALIDATION, FRACTION, HIDDEN, KNOWN = 100, 101, 102, 103, 104


def select(dataset: Dataset, options: DataOptions) -> Dataset:
    """What `[data]` takes of a dataset as it is read; see `open_dataset`."""
    if options.classes is not None:
        dataset = _of_classes(dataset, options.classes)
    if options.validation:
        train = dataset.train
        if train.packed is None:
            draw = options.seed, train.recordings
            held_out = validation_rows(train.labels, options.validation, *draw)
        else:
            held_out = first_labelled(train.labels, options.validation)
        validation = train.part("validation", held_out)
        dataset = replace(dataset, train=train.part("train", ~held_out), validation=validation)
    train = dataset.train
    if options.fraction < 1:
        kept = sample_of_each_class(
            train.labels, options.fraction, options.seed, FRACTION, train.recordings
        )
        train = train.part("train", kept)
    if options.labelled < 1:
        known = sample_of_each_class(
            train.labels, options.labelled, options.seed, KNOWN, train.recordings
        )
        train = replace(train, labels=train.labels.where(known, UNLABELLED))
    return replace(dataset, train=train, standardized=options.standardize, hold=options.hold)


def _of_classes(dataset: Dataset, classes: list[str]) -> Dataset:
    """The rows of these classes, with labels renumbered from 0 in the order of all classes."""
    kept = torch.tensor(class_numbers(dataset.train.labels, dataset.class_names, classes))

    def part(split: Split) -> Split:
        few = split.part(split.name, torch.isin(split.labels, kept))
        if split.rows and not few.rows:
            raise DataError(
                f"data.classes: the {split.name} split must have images of them, but has none; "
                "choose other classes"
            )
        return replace(few, labels=torch.searchsorted(kept, few.labels))

    names = tuple(dataset.class_names[number] for number in kept.tolist())
    train, validation, test = map(part, (dataset.train, dataset.validation, dataset.test))
    return Dataset(dataset.name, names, train, validation, test)


def class_numbers(labels: Tensor, class_names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Labels of the classes with these names, in the order of `class_names`.

    Raises:
        UnknownNameError: a name is not among `class_names`.
        ConfigError: of some rows nobody knows whether they are of these classes.
    """
    if bare := int((labels == UNLABELLED).sum()):
        raise ConfigError(
            f"classes: chooses images by their labels, but {bare} training images have none; leave "
            "it out, or take these images away"
        )
    if unknown := [name for name in classes if name not in class_names]:
        tail = suggestion(unknown[0], class_names)
        raise UnknownNameError(f"classes: unknown class '{unknown[0]}'; {tail}")
    return [number for number, name in enumerate(class_names) if name in set(classes)]


def choose_rows(
    labels: Tensor,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    fraction: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Rows of the given classes, and of each the given share, at least one row.

    Args:
        labels: `(N,)` int64, 0 to K - 1, or `UNLABELLED`.
        class_names: K names.
        classes: names of the classes to keep; None for all.
        fraction: share to keep of every class, rounded to whole rows.
        seed: chooses the rows; those of a smaller share are among those of a larger one.

    Returns:
        `(n,)` int64 row numbers, ascending.

    Raises:
        UnknownNameError: a name is not among `class_names`.
        ConfigError: classes are to be kept, but some rows are `UNLABELLED`.
    """
    keep = sample_of_each_class(labels, fraction, seed, FRACTION)
    if classes is not None:
        keep &= torch.isin(labels, torch.tensor(class_numbers(labels, class_names, classes)))
    return keep.nonzero().flatten()


def hidden_labels(labels: Tensor, share: float, seed: int) -> Tensor:
    """The labels `(N,)`, a share of them set to `UNLABELLED`, rounded to whole rows.

    The seed chooses the rows; those of a smaller share are among those of a larger one.
    """
    hidden = _shuffled(len(labels), seed, HIDDEN)[: int(len(labels) * share + 0.5)]
    return labels.index_fill(0, hidden, UNLABELLED)


def sample_of_each_class(
    labels: Tensor, share: float, seed: int, purpose: int, recordings: Recordings | None = None
) -> Tensor:
    """A share of every class, rounded to whole rows, at least one.

    Args:
        labels: `(N,)` int64, 0 to K - 1; rows that are `UNLABELLED` count as a class.
        share: 0 to 1.
        seed: chooses the rows; those of a smaller share are among those of a larger one.
        purpose: which stream of draws.
        recordings: of which rows are frames; a share of those of every word is taken then.

    Returns:
        `(N,)` bool, true for the rows in the sample.
    """
    if recordings is not None:
        words = recordings.words(labels)
        return recordings.frames(sample_of_each_class(words, share, seed, purpose))
    groups = labels - UNLABELLED
    ranks, counts = _ranks(groups, seed, purpose)
    quotas = (counts.double() * share + 0.5).long().clamp(min=1)
    return ranks < quotas[groups]


def with_test_share(
    name: str, class_names: tuple[str, ...], everything: Split, share: float
) -> Dataset:
    """A dataset that has no test split of its own: a fixed share of every class becomes that."""
    # The seed is part of what the dataset is: figures on it are comparable across recipes.
    test = sample_of_each_class(everything.labels, share, 0, TEST)
    test &= everything.labels != UNLABELLED
    splits = everything.part("train", ~test), everything.part("test", test)
    return Dataset.of_two(name, class_names, *splits)


def validation_rows(
    labels: Tensor, rows: int, seed: int, recordings: Recordings | None = None
) -> Tensor:
    """Exactly so many rows, spread over the classes as evenly as the classes themselves are.

    Args:
        labels: `(N,)` int64, 0 to K - 1; rows that are `UNLABELLED` are none of them.
        rows: how many.
        seed: chooses the rows.
        recordings: of which rows are frames. Whole ones are chosen then, spread over the words,
            until they have so many rows or more: a frame looks like its neighbours.

    Returns:
        `(N,)` bool, true for the validation rows.

    Raises:
        ConfigError: no labelled training row would be left.
    """
    _check_some_left(labels, rows)
    if recordings is None:
        return _marked(_spread(labels, seed)[:rows], len(labels))
    order = _spread(recordings.words(labels), seed)
    before = recordings.lengths[order].cumsum(0) - recordings.lengths[order]
    return recordings.frames(_marked(order[before < rows], recordings.count))


def first_labelled(labels: Tensor, rows: int) -> Tensor:
    """The first rows with labels, as `validation_rows` gives them, of rows in a drawn order.

    They lie together, so that evaluating them reads nothing else.
    """
    _check_some_left(labels, rows)
    labelled = labels != UNLABELLED
    return labelled & (labelled.cumsum(0) <= rows)


def _check_some_left(labels: Tensor, rows: int) -> None:
    if rows >= (there := int((labels != UNLABELLED).sum())):
        raise ConfigError(
            f"data.validation: must leave at least one of the {there} training rows with labels, "
            f"but got {rows}; lower it"
        )


def _spread(labels: Tensor, seed: int) -> Tensor:
    """All rows in an order whose first n are n / N of every class; `UNLABELLED` ones come last."""
    groups, labelled = labels - UNLABELLED, labels != UNLABELLED
    ranks, counts = _ranks(groups, seed, VALIDATION)
    order = _shuffled(len(labels), seed, VALIDATION)
    # A row's place within its class, in (0, 1). Equal classes tie, and the shuffle then says which
    # of them gives one row more.
    places = ((ranks.double() + 0.5) / counts[groups]).where(labelled, torch.inf)
    return order[torch.argsort(places[order], stable=True)]


def _marked(chosen: Tensor, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.bool).index_fill(0, chosen, True)


def _shuffled(rows: int, seed: int, purpose: int) -> Tensor:
    """A permutation of the row numbers."""
    return torch.argsort(hashed(seed, torch.arange(rows), 0, purpose), stable=True)


def _ranks(labels: Tensor, seed: int, purpose: int) -> tuple[Tensor, Tensor]:
    """Each row's rank in its shuffled class, from 0, `(N,)`; and the rows of each class, `(K,)`."""
    order = _shuffled(len(labels), seed, purpose)
    by_class = order[torch.argsort(labels[order], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - starts
    return ranks, counts
