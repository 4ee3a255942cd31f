"""The rows of a transfer set: which images and views they are, with their pixels, in one place.

Row r of a split is view r mod V of the image r div V, counted among those that are labelled.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_ray.config import Augment, TransferSetOptions
from kd_ray.datasets import Dataset, Split, choose_rows, hidden_labels, render
from kd_ray.transfer_set import SPLITS, Plan, SplitName, TransferSet, image_and_view

CPU = torch.device("cpu")
AT_ONCE = 1024
"""Rows whose pixels are in memory together."""


@dataclass(frozen=True)
class Rendered:
    """Some rows, ready for a model or for a shard.

    Attributes:
        index: `(n,)` int64 row numbers of the dataset's split.
        view: `(n,)` int64.
        labels: `(n,)` int64, `UNLABELLED` where hidden.
        images: `(n, C, H, W)` uint8.
    """

    index: Tensor
    view: Tensor
    labels: Tensor
    images: Tensor


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split.

    Attributes:
        split: where the pixels are.
        index: `(N,)` int64 rows of the split that are labelled.
        labels: `(N,)` int64, `UNLABELLED` where hidden.
        views: V.
        augment: what a view other than 0 does to an image.
        seed: of the views.
    """

    split: Split
    index: Tensor
    labels: Tensor
    views: int
    augment: Augment
    seed: int

    def image_and_view(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Number among the N images, and view, of rows `(n,)`."""
        return image_and_view(rows, self.views)

    def columns(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index, view and label of rows `(n,)` int64 of N * V, `(n,)` each; see `Rendered`."""
        number, view = self.image_and_view(rows)
        return self.index[number], view, self.labels[number]

    def images(self, rows: Tensor, device: torch.device = CPU) -> Iterator[Tensor]:
        """The pixels of rows `(n,)` int64 of N * V, which ascend, `AT_ONCE` of them at a time.

        Those that are streamed are read ahead; views are rendered on the device.
        """
        pieces = [self.columns(piece) for piece in torch.split(rows, AT_ONCE)]
        # An image is read once for all of its views.
        alone = [torch.unique_consecutive(index, return_inverse=True) for index, *_ in pieces]
        stored = self.split.images
        read: Iterator[Tensor]
        if isinstance(stored, Tensor):
            read = (stored.index_select(0, index) for index, _ in alone)
        else:
            read = stored.follow(index for index, _ in alone)
        for columns, (_, which), images in zip(pieces, alone, read, strict=True):
            plain, copies, index, view = (
                part.to(device, non_blocking=True) for part in (images, which, *columns[:2])
            )
            plain = plain if len(plain) == len(index) else plain.index_select(0, copies)
            yield render(plain, index, view, self.augment, self.seed)

    def rendered(self, rows: Tensor) -> Rendered:
        """Rows `(n,)` int64 of N * V, which ascend, with their pixels."""
        return Rendered(*self.columns(rows), torch.cat(list(self.images(rows))))


def rows_to_label(dataset: Dataset, options: TransferSetOptions) -> dict[SplitName, SplitRows]:
    """The rows of each split that a transfer set is to hold; a pure function of its arguments."""
    index = choose_rows(
        dataset.train.labels,
        dataset.class_names,
        classes=options.classes,
        fraction=options.fraction,
        seed=options.seed,
    )
    held_out = {name: torch.arange(getattr(dataset, name).rows) for name in SPLITS[1:]}
    return rows_with_labels(dataset, options, {"train": index, **held_out})


def rows_with_labels(
    dataset: Dataset, options: TransferSetOptions, indices: Mapping[SplitName, Tensor]
) -> dict[SplitName, SplitRows]:
    """Chosen rows of each split, `(N,)` int64, with the labels and views that a set gives them."""
    rows: dict[SplitName, SplitRows] = {}
    for name, index in indices.items():
        split: Split = getattr(dataset, name)
        labels, views = split.labels[index], 1
        if name == "train":
            labels = hidden_labels(labels, options.unlabelled, options.seed)
            views = options.views
        rows[name] = SplitRows(split, index, labels, views, options.augment, options.seed)
    return rows


def labelled_rows(transfer_set: TransferSet, dataset: Dataset) -> dict[SplitName, SplitRows]:
    """The rows of each split that a transfer set holds; its fit was checked by the caller."""
    plan: Plan = transfer_set.manifest.plan
    augment = Augment.model_validate(plan.augment)
    found = {}
    for name in SPLITS:
        rows, split = getattr(transfer_set, name), getattr(dataset, name)
        views = plan.views_of(name)
        found[name] = SplitRows(split, rows.index, rows.labels, views, augment, plan.seed)
    return found
