"""The counts of an evaluation: sums over rows that add up over batches and over workers.

`tally` turns rows into sums on their device, sums of sums are sums, `summarize` turns them into
figures. Nothing here knows how the sums travel between workers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.batch import UNLABELLED

BINS = 15
"""Equal bins of confidence, as Guo et al. 2017 count calibration error."""

FIGURES = (
    *("rows", "accuracy", "errors", "loss", "calibration_error"),
    *("agreement", "divergence", "teacher_accuracy", "teacher_errors"),
)
"""Names that `summarize` may return; those of whole recordings are `words.WORD_FIGURES`."""

_SCALARS = (
    *("rows", "labelled", "correct", "loss"),
    *("taught", "agreed", "divergence", "teacher_correct"),
)


def tally(logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
    """Sums over the given rows; add the tallies of parts to get the tally of the whole.

    Everything is measured at T = 1, whatever the student was trained at.

    Args:
        logits: student logits z, `(N, K)`; N may be 0.
        labels: `(N,)` int64; an `UNLABELLED` row counts for agreement and divergence only.
        teacher: its distribution at T = 1, `(N, K)`, or None where there is no teacher.

    Returns:
        `(S,)` float64 sums on the device of `logits`; only `summarize` knows their order.
    """
    log_student = logits.float().log_softmax(dim=-1)
    confidence, top = log_student.exp().max(dim=-1)
    labelled = labels != UNLABELLED
    correct = top == labels  # never true of UNLABELLED
    negative = F.nll_loss(log_student, labels, ignore_index=UNLABELLED, reduction="none")
    everything = torch.ones_like(labelled)
    if teacher is None:
        taught = agreed = teacher_correct = torch.zeros_like(labelled)
        divergence = torch.zeros_like(confidence)
    else:
        taught = everything
        teacher_top = teacher.argmax(dim=-1)
        agreed, teacher_correct = teacher_top == top, teacher_top == labels
        divergence = F.kl_div(log_student, teacher, reduction="none").sum(dim=-1)
    counted = (everything, labelled, correct, negative)
    columns = (*counted, taught, agreed, divergence, teacher_correct)
    scalars = torch.stack([column.double().sum() for column in columns])
    # Guo et al.: bin b holds confidences in (b / BINS, (b + 1) / BINS]; only the gap of confidence
    # and correctness in a bin matters, so one signed sum a bin is enough.
    bins = (torch.ceil(confidence * BINS).long() - 1).clamp(0, BINS - 1)
    gap = (correct.double() - confidence.double()) * labelled
    gaps = (F.one_hot(bins, BINS) * gap.unsqueeze(1)).sum(dim=0)
    return torch.cat([scalars, gaps])


def summarize(sums: Tensor) -> dict[str, float]:
    """The figures of a tally.

    Args:
        sums: `(S,)` float64, added up over all batches and workers.

    Returns:
        `rows`; where rows have labels `accuracy` (share), `errors` (count), `loss` (mean negative
        log-likelihood, nats) and `calibration_error` (share, Guo et al. 2017, section 2);
        where there is a teacher `agreement` (share of rows with the teacher's top-1) and
        `divergence` (mean KL(teacher || student), nats); with both, the teacher's own
        `teacher_accuracy` and `teacher_errors`. Keys without rows are absent, not NaN.

    Raises:
        ValueError: no rows at all.
    """
    values = sums.tolist()
    if len(values) != len(_SCALARS) + BINS:
        raise ValueError(f"sums must come from tally, but got {len(values)} of them")
    count = dict(zip(_SCALARS, values, strict=False))
    if count["rows"] == 0:
        raise ValueError("at least one row is needed, but got none")
    figures: dict[str, float] = {"rows": int(count["rows"])}
    if labelled := count["labelled"]:
        figures["accuracy"] = count["correct"] / labelled
        figures["errors"] = int(labelled - count["correct"])
        figures["loss"] = count["loss"] / labelled
        figures["calibration_error"] = sum(map(abs, values[len(_SCALARS) :])) / labelled
    if taught := count["taught"]:
        figures["agreement"] = count["agreed"] / taught
        figures["divergence"] = count["divergence"] / taught
        if labelled:
            figures["teacher_accuracy"] = count["teacher_correct"] / labelled
            figures["teacher_errors"] = int(labelled - count["teacher_correct"])
    return figures
