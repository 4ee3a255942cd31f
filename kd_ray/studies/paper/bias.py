"""Biases of classes that a student has never seen, or seen too often, chosen after its training.

Hinton et al. 2015, section 3: a student whose transfer set had no 3s knows what a 3 is, but not how
often one comes; raising the bias of that class mends most of its errors. The paper chose the bias
by the test set. `bias_for_mass` needs no label at all, only how often the classes come.
Pure functions on logits; they know of no model and no file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_ray.errors import TrainingError

TOLERANCE = 1e-7
"""How near the mean mass of a class comes to its share."""
WAYS = {"none": "no correction", "mass": "by mean mass", "test": "tuned on the test split"}
"""Way to correct -> what a person calls it."""


def bias_for_mass(logits: Tensor, classes: Sequence[int], shares: Sequence[float]) -> Tensor:
    """Biases of some classes with which their mean predicted mass is what it should be.

    The mass of a class grows with its bias, and the masses minus the shares are the gradient of
    mean(logsumexp(z + b)) - shares * b, which is convex: so there is one answer, and it is found
    by a trust region's Newton steps. With one class this is the root of a monotone function.

    Args:
        logits: of images whose classes come as often as `shares` say, `(N, K)`; no labels needed.
        classes: numbers of the classes to correct, not all K of them.
        shares: how often each of them comes, above 0, together below 1.

    Returns:
        `(K,)` float64, 0 for the other classes.

    Raises:
        TrainingError: no bias gives these shares, since the logits are not finite.
    """
    from scipy.optimize import minimize

    if not 0 < sum(shares) < 1 or min(shares) <= 0 or len(classes) != len(shares):
        raise ValueError(f"shares must be above 0 and together below 1, but got {list(shares)}")
    chosen = torch.tensor(classes)
    wanted = torch.tensor(shares, dtype=torch.float64)
    exact = logits.double()
    bias = torch.zeros(logits.shape[1], dtype=torch.float64)

    def biased(values: Any) -> Tensor:
        bias[chosen] = torch.as_tensor(values, dtype=torch.float64)
        return exact + bias

    def potential(values: Any) -> float:
        z = biased(values)
        return float(z.logsumexp(dim=1).mean() - wanted @ bias[chosen])

    def excess(values: Any) -> Any:
        return (biased(values).softmax(dim=1)[:, chosen].mean(dim=0) - wanted).numpy()

    def curvature(values: Any) -> Any:
        p = biased(values).softmax(dim=1)[:, chosen]
        return (torch.diag(p.mean(dim=0)) - p.T @ p / len(p)).numpy()

    start = [0.0] * len(classes)
    options = {"gtol": TOLERANCE / 10, "max_trust_radius": 100.0}
    found = minimize(
        potential, start, method="trust-exact", jac=excess, hess=curvature, options=options
    )
    if not abs(excess(found.x)).max() < TOLERANCE:
        raise TrainingError(
            f"bias correction: the mean mass of classes {list(classes)} must come to "
            f"{list(shares)}, but no bias was found that does it ({found.message}); look at the "
            "student's logits"
        )
    biased(found.x)
    return bias


def bias_by_labels(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> float:
    """One bias for some classes with which the fewest of these rows are wrong: the paper's way.

    Tuned on the test split, its figure is of rows that chose it. The number of errors changes only
    where the best of these classes overtakes the best of the others, so all values are tried: the
    middle of the longest stretch with the fewest errors.

    Args:
        logits: z, `(N, K)`.
        labels: `(N,)` int64.
        classes: numbers of the classes that share the bias, not all K of them.
    """
    inside = torch.zeros(logits.shape[1], dtype=torch.bool)
    inside[torch.tensor(classes)] = True
    best_in, top_in = logits.double().masked_fill(~inside, -torch.inf).max(dim=1)
    best_out, top_out = logits.double().masked_fill(inside, -torch.inf).max(dim=1)
    turn, order = (best_out - best_in).sort()  # above it, one of `classes` is chosen
    gained = (top_in == labels).long() - (top_out == labels).long()
    right = torch.cat([torch.zeros(1, dtype=torch.int64), gained[order].cumsum(dim=0)])
    # A margin beyond the first and the last turn, where nothing changes any more.
    edges = torch.cat([turn[:1] - 2, turn, turn[-1:] + 2])
    width = (edges[1:] - edges[:-1]).masked_fill(right < right.max(), -1.0)
    widest = int(width.argmax())
    return float((edges[widest] + edges[widest + 1]) / 2)


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
    return {
        way: corrected_figures(test + bias, test_labels, classes, bias)
        for way, bias in biases.items()
    }


def corrected_figures(
    logits: Tensor, labels: Tensor, classes: Sequence[int], bias: Tensor
) -> dict[str, Any]:
    """Errors of logits `(N, K)` with their biases `(K,)`: in all, and on rows of some classes."""
    wrong = logits.argmax(dim=1) != labels
    among = torch.isin(labels, torch.tensor(classes))
    return {
        "errors": int(wrong.sum()),
        "rows": len(labels),
        "class_errors": int((wrong & among).sum()),
        "class_rows": int(among.sum()),
        "biases": [round(float(bias[number]), 4) for number in classes],
    }
