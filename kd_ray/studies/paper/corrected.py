"""Students whose biases are corrected after training: errors in all, and on the classes corrected.

What was computed is kept beside the students under the sha256 of their weights, and used again.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_ray.artefacts import this_device
from kd_ray.config import DataOptions
from kd_ray.datasets import open_dataset
from kd_ray.files import write_json
from kd_ray.result import Result
from kd_ray.runs import result_model
from kd_ray.studies.paper.bias import bias_by_labels, bias_for_mass
from kd_ray.training.saved_model import load_model, raw_logits

FILE = "biases.json"
WAYS = {
    "none": "no correction",
    "mass": "by mean mass",
    "test": "tuned on the test split",
}
"""Way to correct -> what a person calls it."""


def corrected_students(
    folder: Path,
    students: Iterable[Result],
    classes: Sequence[str],
    data: DataOptions | None = None,
) -> dict[int, dict[str, Any]]:
    """The figures of students with each of `WAYS`, those that are kept or can be computed.

    Args:
        folder: of a run.
        students: their records.
        classes: names of the classes whose biases move.
        data: `[data]` of the run, to compute and keep what is not kept; None to compute nothing.

    Returns:
        Seed -> way -> `figures`.

    Raises:
        CheckpointError: a student's file was altered.
        TrainingError: its logits are not finite.
    """
    kept, dataset, answer = _kept(folder / FILE), None, {}
    for student in students:
        key = f"{student.weights_sha256} {' '.join(classes)}"
        if key not in kept and data is not None:
            dataset = dataset or open_dataset(data)
            numbers = [dataset.class_names.index(name) for name in classes]
            path = folder / "student" / student.variant / f"seed-{student.seed}"
            saved = load_model(result_model(path), this_device())
            train, test = (
                raw_logits([saved], split.images, this_device())[:, 0]
                for split in (dataset.train, dataset.test)
            )
            kept[key] = corrections(train, dataset.train.labels, test, dataset.test.labels, numbers)
            write_json(folder / FILE, kept)
        if key in kept:
            answer[student.seed] = kept[key]
    return answer


def corrections(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, classes: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Figures on the test split with each of `WAYS`.

    Args:
        train: logits of all training images, those of the transfer set and the others, `(n, K)`.
        train_labels: `(n,)` int64; of them nothing but how often each class comes is used.
        test: logits of the test split, `(N, K)`.
        test_labels: `(N,)` int64.
        classes: numbers of the classes whose biases move.
    """
    shares = torch.bincount(train_labels, minlength=train.shape[1]).double() / len(train_labels)
    none = torch.zeros(test.shape[1], dtype=torch.float64)
    by_test = none.clone()
    by_test[list(classes)] = bias_by_labels(test, test_labels, classes)
    biases = {
        "none": none,
        "mass": bias_for_mass(train, classes, shares[list(classes)].tolist()),
        "test": by_test,
    }
    return {way: figures(test + bias, test_labels, classes, bias) for way, bias in biases.items()}


def figures(logits: Tensor, labels: Tensor, classes: Sequence[int], bias: Tensor) -> dict[str, Any]:
    """Errors of logits that have their biases: in all, and on rows of some classes.

    Args:
        logits: `(N, K)`.
        labels: `(N,)` int64.
        classes: numbers of the classes.
        bias: what was added, `(K,)`.

    Returns:
        `errors`, `rows`, `class_errors` and `class_rows` of the classes' rows, `biases`.
    """
    wrong = logits.argmax(dim=1) != labels
    among = torch.isin(labels, torch.tensor(classes))
    return {
        "errors": int(wrong.sum()),
        "rows": len(labels),
        "class_errors": int((wrong & among).sum()),
        "class_rows": int(among.sum()),
        "biases": [round(float(bias[number]), 4) for number in classes],
    }


def _kept(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (FileNotFoundError, ValueError):  # computed again where it is not readable
        return {}
