"""A user's own tables of pictures and labels: which files there are, which rows are which split.

How one file is read, `table_file` knows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kd_ray.config import ColumnNames, DataOptions
from kd_ray.datasets.dataset import Dataset
from kd_ray.datasets.labels import Place
from kd_ray.datasets.listed import Listed, Lists, dataset_of
from kd_ray.datasets.storage import given_root, needed_root
from kd_ray.datasets.table_file import TableFile, opened_table
from kd_ray.errors import DataError, shown

TRAIN, TEST, VALIDATION, UNLABELLED_ROWS = "train", "test", "validation", "unlabelled"
WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsupervised"), UNLABELLED_ROWS),
}
"""What a file or a row says of its split -> the split."""


def read_table(options: DataOptions) -> Dataset:
    """The pictures of `listed_table`, decoded."""
    with listed_table(options) as lists:
        return dataset_of(lists, options)


@contextmanager
def listed_table(options: DataOptions) -> Iterator[Lists]:
    """Pictures and labels in the `*.parquet` or `*.csv` files of `data.root`, or in one file.

    A row's split is what its column `split` says, else the first word of the file's name or of its
    folder's: train, test, validation (which is tested on where there is no test split, and left out
    otherwise) or unlabelled. Where nothing says it, or nothing but train, a fixed fifth of every
    class becomes the test split. See `table_file` for labels and `listed` for pictures.

    Raises:
        ConfigError: no root is given.
        DataError: a file, a column, a label or a picture is missing or is something else.
    """
    root = needed_root(given_root(options), options.name)
    columns = options.columns or ColumnNames()
    with ExitStack() as stack:
        files, splits = [], []
        for path in _paths(root, options.name):
            said = _word(path.stem) or _word(path.parent.name if root in path.parents[1:] else "")
            opened = opened_table(path, options.name, columns, said != UNLABELLED_ROWS)
            files.append(stack.enter_context(opened))
            splits.append(_splits(files[-1], said))
        there = {split for some in splits for split in some}
        if None in there and len(there) > 1:
            odd = next(f.path for f, some in zip(files, splits, strict=True) if None in some)
            raise DataError(
                f"{odd}: its name, or a column, must say which split it is, as those of others do "
                f"({', '.join(WORDS)}); rename it, or take it away"
            )

        def listed(*wanted: str | None) -> Listed:
            rows = zip(files, splits, strict=True)
            return Listed.of([_listed(file, some, wanted) for file, some in rows])

        train, test = listed(TRAIN, None), None
        if tested := next((split for split in (TEST, VALIDATION) if split in there), None):
            test = listed(tested)
        if UNLABELLED_ROWS in there:
            more = listed(UNLABELLED_ROWS)
            more = Listed(more.places, [None] * len(more.places), more.pictures)
            train = Listed.of([train, more])
        yield Lists(root, train, test, _class_names(files))


def _paths(root: Path, kind: str) -> list[Path]:
    """The files, sorted: the one that is named, or those of a folder, its `data` or its splits."""
    if root.is_file():
        return [root]
    in_splits = [path for path in root.glob(f"*/*.{kind}") if _word(path.parent.name)]
    for found in (root.glob(f"*.{kind}"), root.glob(f"data/*.{kind}"), in_splits):
        if paths := sorted(found):
            return paths
    raise DataError(
        f"{root}: must be a .{kind} file or a folder with some (train-*.{kind}, test-*.{kind}; "
        "also below data), but is or has none; check data.root"
    )


def _word(text: str) -> str | None:
    """The split that the first word of a name says."""
    first = re.match("[a-z]*", text.lower())
    return WORDS.get(first[0]) if first else None


def _splits(file: TableFile, of_file: str | None) -> Sequence[str | None]:
    """The split of each row: what its column says, else what the file's name does, or None."""
    if file.splits is None:
        return [of_file] * file.rows
    known = {said: WORDS.get(str(said).strip().lower()) for said in set(file.splits)}
    if odd := [row for row, said in enumerate(file.splits) if known[said] is None]:
        raise DataError(
            f"{Place(file.path, odd[0])}: its split must be one of {', '.join(WORDS)}, but is "
            f"{shown(file.splits[odd[0]])}; correct it, or name another column with "
            'data.columns = { split = "..." }'
        )
    return [known[said] for said in file.splits]


def _listed(file: TableFile, splits: Sequence[str | None], wanted: Sequence[str | None]) -> Listed:
    """The rows of a file that are of the wanted splits."""
    chosen = [row for row, split in enumerate(splits) if split in wanted]
    places = [Place(file.path, row) for row in chosen]
    return Listed(places, [file.labels[row] for row in chosen], file.pictures(chosen))


def _class_names(files: Sequence[TableFile]) -> tuple[str, ...] | None:
    """The names that the files have for the numbers of classes, if they have any."""
    named = {file.class_names: file.path for file in files if file.class_names is not None}
    if len(named) > 1:
        one, other = list(named.values())[:2]
        raise DataError(
            f"{other}: must name the same classes in the same order as {one}, but does not; "
            "take away what is of another data set"
        )
    return next(iter(named), None)
