"""The catalogue of soft terms: what a student learns from a teacher's logits, one loss for a row.

A soft term is a function whose parameters say what it is given, of these:

| parameter | what |
|---|---|
| `z` | student logits, `(N, K)` |
| `v` | teacher logits, `(N, K)`; of several teachers T * log of their joint distribution at T |
| `targets` | the soft targets softmax(v / T), `(N, K)` |
| `y` | labels, `(N,)` int64, none of them hidden |
| `T` | the temperature |
| `over_workers` | adds a tensor up over all workers; gradients pass through it |

Its other parameters are options, in the letters of its paper. It answers with `(N,)`, of which the
mean over the global batch is taken and multiplied by c. A user's own is named by its dotted path.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.batch import UNLABELLED
from kd_ray.catalog import call_problems, suggestion
from kd_ray.errors import ConfigError
from kd_ray.own_code import explained, imported, is_dotted
from kd_ray.training.losses import Ensemble, SoftTerm, beside, soft_loss, soft_targets

SumOverWorkers = Callable[[Tensor], Tensor]
GIVEN = ("z", "v", "targets", "y", "T", "over_workers")
HINTON, STANDARDIZED = "hinton", "standardized"
SMALL = 1e-8


def hinton(z: Tensor, targets: Tensor, T: float) -> Tensor:
    """Cross-entropy at T with the soft targets (Hinton, Vinyals and Dean 2015, section 2)."""
    return soft_loss(z, targets, T)


def dkd(
    z: Tensor, v: Tensor, y: Tensor, T: float, *, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled distillation: alpha * KL(label or not) + beta * KL(among the other classes).

    Zhao et al. 2022 (CVPR), equations 7 and 8, where c = T^2. With alpha = 1 and beta = 1 - p_y it
    is Hinton's. Their CIFAR-100 recipes have T = 4, alpha = 1, beta from 1 to 10 (8 for ResNet-56
    to ResNet-20) and c rising over the first 20 of 240 epochs; ImageNet T = 1, beta = 0.5.
    """
    label = F.one_hot(y, z.shape[1]).bool()
    log_q, log_p = (z / T).log_softmax(dim=-1), (v / T).log_softmax(dim=-1)

    def parted(logs: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of label and rest, `(N, 2)`, and of the others among themselves, `(N, K)`."""
        rest = logs.masked_fill(label, -torch.inf).logsumexp(dim=-1, keepdim=True)
        two = torch.cat([logs.gather(1, y.unsqueeze(1)), rest], dim=1)
        return two, (logs - rest).masked_fill(label, 0.0)

    (two_p, others_p), (two_q, others_q) = parted(log_p), parted(log_q)
    of_label = (two_p.exp() * (two_p - two_q)).sum(dim=-1)
    among_others = (others_p.exp() * (others_p - others_q)).sum(dim=-1)
    return alpha * of_label + beta * among_others


def dist(
    z: Tensor,
    targets: Tensor,
    T: float,
    over_workers: SumOverWorkers,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """One minus Pearson's correlation, over the classes of a row and over the rows of a class.

    Huang et al. 2022 (NeurIPS), equations 8 to 10, where c = T^2. Their recipes: ImageNet T = 1,
    CIFAR-100 T = 4, both with beta = gamma = 2 and 1 for the label's term. The second correlation
    is that of the whole batch: its means and moments are added up over all workers.
    """
    q = (z / T).softmax(dim=-1)
    of_rows = 1 - _correlation(_centred(q), _centred(targets), lambda x: x.sum(dim=-1))

    def over_batch(values: Tensor) -> Tensor:
        return over_workers(values.sum(dim=0))

    rows = over_batch(torch.ones_like(q[:, :1]))
    centred = [values - over_batch(values) / rows for values in (q, targets)]
    of_classes = 1 - _correlation(centred[0], centred[1], over_batch).mean()
    # Every row has the batch's term, so the mean over rows, whoever has them, has it once.
    return beta * of_rows + gamma * of_classes


def ttm(z: Tensor, targets: Tensor) -> Tensor:
    """KL(soft targets || softmax(z)): the student itself has T = 1.

    Zheng and Yang 2024 (ICLR), equation 10; c is a number, as nothing shrinks by 1 / T^2.
    """
    return F.kl_div(z.log_softmax(dim=-1), targets, reduction="none").sum(dim=-1)


def wttm(z: Tensor, v: Tensor, targets: Tensor, T: float) -> Tensor:
    """The divergence of `ttm`, times sum_k p_k^(1/T): rows of a teacher in doubt count for more.

    Zheng and Yang 2024 (ICLR), equation 15.
    """
    return ttm(z, targets) * (v.log_softmax(dim=-1) / T).exp().sum(dim=-1)


SOFT_TERMS: Mapping[str, Callable[..., Tensor]] = {
    HINTON: hinton,
    "dkd": dkd,
    "dist": dist,
    "ttm": ttm,
    "wttm": wttm,
}


def standardized_logits(logits: Tensor) -> Tensor:
    """Logits of mean 0 and deviation 1 in each row, `(N, K)` (Sun et al. 2024, CVPR, equation 9).

    A student so learns the order and the relations of the teacher's logits, not their range.
    """
    return _centred(logits) / (logits.var(dim=-1, keepdim=True) + SMALL**2).sqrt()


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=-1, keepdim=True)


def _correlation(a: Tensor, b: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Pearson's, of centred values; `total` adds up over what they were centred over."""
    return total(a * b) / (total(a * a) * total(b * b) + SMALL**2).sqrt()


def joint_logits(teacher_logits: Tensor, T: float, ensemble: Ensemble) -> Tensor:
    """Logits `(N, K)` whose softmax at T is the soft targets; a single teacher's as they are.

    Args:
        teacher_logits: `(N, M, K)`.
        T: the temperature.
        ensemble: the mean and its weights.
    """
    members = teacher_logits.shape[1]
    if members == 1:
        return teacher_logits[:, 0]
    given = ensemble.weights
    if not isinstance(given, Tensor):
        given = beside(teacher_logits, given or [1 / members] * members)
    if ensemble.mean == "geometric":
        return torch.einsum("nmk,m->nk", teacher_logits, given)
    logs = (teacher_logits / T).log_softmax(dim=-1) + given.log().view(1, -1, 1)
    return T * logs.logsumexp(dim=1)


def _function(name: Any) -> Callable[..., Tensor] | None:
    """The soft term of this name: the catalogue's, or one's own by its dotted path.

    Raises:
        ConfigError: nobody has allowed the code, or it cannot be imported or called.
    """
    if not is_dotted(name):
        return SOFT_TERMS.get(name) if isinstance(name, str) else None
    function: Callable[..., Tensor] = imported(name)
    if not callable(function):
        raise ConfigError(f"{name}: must be a function, but is a {type(function).__name__}")
    return function


def _chosen(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The soft term that is computed, with its own options; `standardized` is over another one."""
    own = dict(options)
    return (own.pop("of", HINTON), own) if name == STANDARDIZED else (name, own)


def _known(term: str) -> Callable[..., Tensor]:
    function = _function(term)
    assert function is not None  # by soft_term_problems
    return function


def soft_term_problems(where: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the name and the options of a soft term, one sentence each.

    Args:
        where: dotted place of the table in the recipe.
        name: key of `SOFT_TERMS`, a dotted path, or `standardized`.
        options: table of its parameters.
    """
    term, own = _chosen(name, options)
    over = name == STANDARDIZED
    place, known = (
        "options.of" if over else "name",
        [*SOFT_TERMS, *([] if over else [STANDARDIZED])],
    )
    try:
        function = _function(term)
    except ConfigError as error:
        return [f"{where}.{place}: {error}"]
    if function is None:
        return [f"{where}.{place}: unknown objective {term!r}; {suggestion(str(term), known)}"]
    return call_problems(f"{where}.options", function, own, given=GIVEN)


def check_meaning(name: str, options: Mapping[str, Any], labels: Tensor, classes: int) -> None:
    """Refuses a soft term that means nothing on these rows.

    Args:
        name: key of `SOFT_TERMS`, a dotted path, or `standardized`.
        options: table of its parameters.
        labels: of the rows to learn from, `(N,)` int64.
        classes: K.

    Raises:
        ConfigError: it needs labels and some are hidden, or more classes than there are.
    """
    term, _ = _chosen(name, options)
    needs_labels = "y" in inspect.signature(_known(term)).parameters
    if needs_labels and bool((labels == UNLABELLED).any()):
        raise ConfigError(
            f"objective.name: '{term}' needs the label of every row, but some are hidden; "
            "set data.labelled = 1 and transfer_set.unlabelled = 0, or choose another objective"
        )
    if classes == 2 and (name == STANDARDIZED or term == "dkd"):
        raise ConfigError(
            f"objective.name: '{name}' needs at least 3 classes, as with 2 nothing is left to "
            "learn from the teacher; choose another objective"
        )


def soft_term(
    name: str,
    options: Mapping[str, Any],
    *,
    T: float,
    ensemble: Ensemble,
    over_workers: SumOverWorkers = lambda values: values,
) -> SoftTerm:
    """A soft term of the catalogue at a temperature, for an ensemble.

    Args:
        name: key of `SOFT_TERMS`, a dotted path, or `standardized`.
        options: table of its parameters.
        T: the temperature.
        ensemble: how the teachers are averaged.
        over_workers: adds a tensor up over all workers.
    """
    term, own = _chosen(name, options)
    function = _known(term)
    wanted = inspect.signature(function).parameters

    def loss(z: Tensor, teacher_logits: Tensor, y: Tensor) -> Tensor:
        given: dict[str, Any] = {"z": z, "y": y, "T": T, "over_workers": over_workers}
        if name == STANDARDIZED:
            v = standardized_logits(joint_logits(teacher_logits, T, ensemble))
            given |= {"z": standardized_logits(z), "v": v, "targets": (v / T).softmax(dim=-1)}
        else:
            if "v" in wanted:
                given["v"] = joint_logits(teacher_logits, T, ensemble)
            if "targets" in wanted:
                given["targets"] = soft_targets(teacher_logits, T, ensemble)
        arguments = {key: value for key, value in given.items() if key in wanted}
        if not is_dotted(term):
            return function(**arguments, **own)
        with explained(term):
            losses = function(**arguments, **own)
        if not isinstance(losses, Tensor) or losses.shape != y.shape:
            got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ConfigError(
                f"objective.name: {term} must answer with one loss for each row, {list(y.shape)}, "
                f"but answered with {got}; leave the mean over rows to kd-ray"
            )
        return losses

    return loss
