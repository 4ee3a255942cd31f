"""What a generalist and its specialists believe together: Hinton et al. 2015, section 5.4, eq. 5.

The distribution q over all K classes minimizes

    F(q) = KL(p_g || q) + sum over active specialists m of KL(p_m || q_m)

where q_m is q with the classes that are not special to m added up into its dustbin. F is convex in
q; where specialists overlap, its minimum has no closed form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""Largest change of a probability in a step at which a row's q counts as converged."""

MOST_STEPS = 1000
"""Many more steps than it takes; the gradient that is left is reported, see `Combined`."""

Probabilities = Callable[[int, Tensor], Tensor]
"""(number of a specialist, rows `(n,)`) -> what it believes of them, `(n, s + 1)`, dustbin last."""


@dataclass(frozen=True)
class Beliefs:
    """The beliefs of the generalist and each specialist about N images.

    Attributes:
        generalist: logits, `(N, K)` float64.
        members: which classes are special to each of the S specialists, `(S, K)` bool.
        active: which specialists take part, `(N, S)` bool.
        special: the active ones' probabilities of their own classes, added up, `(N, K)` float64.
        dustbin: probabilities of the active ones' dustbins, 0 of the others, `(N, S)` float64.
    """

    generalist: Tensor
    members: Tensor
    active: Tensor
    special: Tensor
    dustbin: Tensor


@dataclass(frozen=True)
class Combined:
    """The joint distributions of N images.

    Attributes:
        logits: log q, centred: of mean 0 over the classes, `(N, K)` float64.
        gradient: the largest partial derivative of F in a logit that was left.
    """

    logits: Tensor
    gradient: float


def membership(special: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Numbers of each specialist's classes as `(S, K)` bool.

    >>> membership([[0, 2], [1]], 3).int().tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    members = torch.zeros(len(special), classes, dtype=torch.bool)
    for number, some in enumerate(special):
        members[number, list(some)] = True
    return members


def active_specialists(generalist: Tensor, members: Tensor, top_n: int) -> Tensor:
    """Which specialists have one of the generalist's first n choices, `(N, S)` bool."""
    first = generalist.topk(top_n, dim=1).indices
    return members.T[first].any(dim=1)


def gather_beliefs(
    generalist: Tensor, special: Sequence[Sequence[int]], probabilities: Probabilities, top_n: int
) -> Beliefs:
    """Asks each specialist about the images for which it is active, and about no others.

    The generalist's logits are `(N, K)`; `special` has the numbers of each specialist's classes in
    the order of its outputs.
    """
    generalist = generalist.double()
    members = membership(special, generalist.shape[1]).to(generalist.device)
    active = active_specialists(generalist, members, top_n)
    own = torch.zeros_like(generalist)
    dustbin = torch.zeros(active.shape, dtype=generalist.dtype, device=generalist.device)
    for number, classes in enumerate(special):
        rows = active[:, number].nonzero().flatten()
        if len(rows):
            found = probabilities(number, rows).to(generalist)
            columns = torch.tensor(list(classes), device=generalist.device)
            own.index_put_((rows.unsqueeze(1), columns), found[:, :-1], accumulate=True)
            dustbin[rows, number] = found[:, -1]
    return Beliefs(generalist, members, active, own, dustbin)


def combine(
    beliefs: Beliefs, *, tolerance: float = TOLERANCE, most_steps: int = MOST_STEPS
) -> Combined:
    """Minimizes F over the logits z of q = softmax(z), for all images and specialists at once.

    The gradient of F in z is (1 + A) q - p_g - sum over active m of t_m. There A is the number of
    active specialists, and t_m is p_m on m's classes and elsewhere p_m's dustbin, shared out in
    proportion to q. A step moves q by -1 / (1 + A) of this gradient, so that z becomes
    log((p_g + sum of t_m) / (1 + A)). It needs no rate, leaves q a distribution, and never raises
    F: it goes to the minimum of a bound on F that touches it at the old q (expectation maximization
    where the class behind a dustbin is what was not observed). A step on z itself crawls where q is
    small. One specialist alone, or several of the same classes, are solved in one step.

    Args:
        beliefs: beliefs about the images.
        tolerance: an image's q is found when none of its probabilities moves by more in a step.
        most_steps: it ends after so many in any case.

    Returns:
        Of an image without active specialist, the generalist's own logits, centred.
    """
    start = beliefs.generalist.softmax(dim=1)
    fixed = start + beliefs.special
    terms = 1 + beliefs.active.sum(dim=1, keepdim=True)
    others = (~beliefs.members).to(start)
    q = start.clone()
    rows = beliefs.active.any(dim=1).nonzero().flatten()  # still to be found
    for _ in range(most_steps):
        if not len(rows):
            break
        old = q[rows]
        new = (fixed[rows] + _shared_out(old, beliefs.dustbin[rows], others)) / terms[rows]
        q[rows] = new
        rows = rows[(new - old).abs().amax(dim=1) > tolerance]
    left = terms * q - fixed - _shared_out(q, beliefs.dustbin, others)
    logits = torch.where(terms > 1, q.log(), beliefs.generalist)
    return Combined(
        logits=logits - logits.mean(dim=1, keepdim=True),
        gradient=float(left.abs().max()) if left.numel() else 0.0,
    )


def _shared_out(q: Tensor, dustbin: Tensor, others: Tensor) -> Tensor:
    """Mass of the dustbins `(N, S)` on their `others` `(S, K)`, in proportion to q, `(N, K)`."""
    behind = (q @ others.T).clamp(min=torch.finfo(q.dtype).tiny)
    return q * ((dustbin / behind) @ others)
