"""A specialist's outputs: its own classes, and one dustbin class for all others."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Specialist(nn.Module):
    """A network over all K classes, of which all but the special ones are joined in a dustbin.

    Hinton et al. 2015, section 5.2. The dustbin's logit is the log-sum-exp of the logits that it
    joins, so that its probability is the sum of theirs: a specialist that starts from the
    generalist's weights starts with exactly the generalist's beliefs, whatever the architecture. A
    dustbin with a row of weights of its own would have none that are right to start from.

    In training half of the images are special ones, far more than there are. In evaluation the
    dustbin's logit is raised by `correction`, the log of how much too often, so that what is
    measured and combined are probabilities among images as they come.
    """

    others: Tensor
    special: Tensor
    correction: Tensor

    def __init__(self, network: nn.Module, special: Sequence[int], classes: int):
        """A specialist of s special classes out of K around a network with K outputs."""
        super().__init__()
        self.network = network
        rest = [number for number in range(classes) if number not in set(special)]
        # What the checkpoint's description says is not stored once more among the weights.
        self.register_buffer("special", torch.tensor(list(special)), persistent=False)
        self.register_buffer("others", torch.tensor(rest), persistent=False)
        self.register_buffer("correction", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, s + 1)`; the dustbin is last."""
        logits = joined(self.network(images).float(), self.special, self.others)
        if self.training:
            return logits
        return torch.cat([logits[:, :-1], logits[:, -1:] + self.correction], dim=1)


def joined(logits: Tensor, special: Tensor, others: Tensor) -> Tensor:
    """Logits `(N, K)` as those of some classes and of a dustbin for the others, `(N, s + 1)`.

    The softmax of the result is the softmax of `logits`, added up over the `(K - s,)` others.
    """
    dustbin = logits[:, others].logsumexp(dim=1, keepdim=True)
    return torch.cat([logits[:, special], dustbin], dim=1)


def special_labels(labels: Tensor, special: Sequence[int]) -> Tensor:
    """Labels `(N,)` among all classes as labels among a specialist's s, in its outputs' order.

    The dustbin's is s, and a negative one (a hidden label) stays what it is.

    >>> special_labels(torch.tensor([4, 0, 2, -1]), [2, 4]).tolist()
    [1, 2, 0, -1]
    """
    mapped = torch.where(labels < 0, labels, len(special))
    for place, number in enumerate(special):
        mapped[labels == number] = place
    return mapped
